"""Counters that all workers of one gateway share, so that limits hold for them together.

Each worker writes its own row and reads all of them: no locks, and what a worker that died had counted is gone when its
row is cleared. Two workers that count at the same instant may both see the last free place: a limit can be overshot by
one less than there are workers.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from dataclasses import dataclass

__all__ = ["SharedCounters"]

_CELL = struct.Struct("<q")


@dataclass(frozen=True, slots=True)
class SharedCounters:
    """Rows of counters in memory that the workers map.

    ::

        counters = SharedCounters.create(workers=2)
        mine = SharedCounters.attach(counters.fd, workers=2, index=0)
        mine.add(RUNNING, 1)
        mine.total(RUNNING)
    """

    fd: int
    workers: int
    index: int
    """The row of this process; -1: none, it only reads and clears."""
    cells: mmap.mmap

    @classmethod
    def create(cls, workers: int, width: int = 64) -> SharedCounters:
        """New counters, all zero.

        Args:
            width: counters of each worker.
        """
        with tempfile.TemporaryFile() as file:
            size = workers * width * _CELL.size
            file.truncate(size)
            fd = os.dup(file.fileno())
        return cls(fd, workers, -1, mmap.mmap(fd, size))

    @classmethod
    def attach(cls, fd: int, workers: int, index: int) -> SharedCounters:
        """The same counters in a worker, which inherits `fd`."""
        return cls(fd, workers, index, mmap.mmap(fd, os.fstat(fd).st_size))

    @property
    def _row(self) -> int:
        return len(self.cells) // self.workers

    def add(self, counter: int, by: int) -> None:
        """Count in this worker's row."""
        place = self.index * self._row + counter * _CELL.size
        _CELL.pack_into(self.cells, place, _CELL.unpack_from(self.cells, place)[0] + by)

    def total(self, counter: int) -> int:
        """The sum over all workers."""
        row, offset = self._row, counter * _CELL.size
        return sum(int(_CELL.unpack_from(self.cells, index * row + offset)[0]) for index in range(self.workers))

    def clear(self, index: int) -> None:
        """Forget what a worker that has died had counted."""
        row = self._row
        self.cells[index * row : (index + 1) * row] = bytes(row)

    def close(self) -> None:
        """Let go of the memory."""
        self.cells.close()
        os.close(self.fd)
