"""Memory that all workers of one gateway share, so that limits hold for them together and metrics tell of all of them.

It has three parts: a row of counters for each worker, a table that all write, and a page for each worker. Each worker
writes its own row and reads all of them: no locks, and what a worker that died had counted is gone when its row is
cleared. Two workers that count at the same instant may both see the last free place: a limit can be overshot by one
less than there are workers. Table and pages are read and written under locks that the system frees when a worker dies.
"""

from __future__ import annotations

import mmap
import os
import secrets
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["COUNTERS", "PLACES", "RECORD_BYTES", "SharedCounters"]

COUNTERS = 64
"""Counters of each worker that have a meaning of their own."""
PLACES = 8192
"""Records of the table; each worker has a counter for each of them too, behind the others."""
RECORD_BYTES = 64
_PAGE_BYTES = 1024 * 1024
_SALT_BYTES = 16
_CELL = struct.Struct("<q")
_HEAD = struct.Struct("<II")
"""Of a page: which of its two sides holds, and how many bytes."""
_ROW = (COUNTERS + PLACES) * _CELL.size
_SIDE_BYTES = (_PAGE_BYTES - _HEAD.size) // 2
_TRIES, _PAUSE_SECONDS = 40, 0.0005
_QUICK_TRIES = 50
"""Without a pause: a lock is held for microseconds, and a pause is as long as several requests."""


@dataclass(frozen=True, slots=True)
class SharedCounters:
    """The memory, as one process maps it.

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
    def create(cls, workers: int) -> SharedCounters:
        """New memory, all zero save a random salt for hashes. It has no name: it goes with the last process."""
        with tempfile.TemporaryFile() as file:
            size = workers * (_ROW + _PAGE_BYTES) + PLACES * RECORD_BYTES + _SALT_BYTES
            file.truncate(size)
            fd = os.dup(file.fileno())
        made = cls(fd, workers, -1, mmap.mmap(fd, size))
        made.cells[size - _SALT_BYTES :] = secrets.token_bytes(_SALT_BYTES)
        return made

    @classmethod
    def attach(cls, fd: int, workers: int, index: int) -> SharedCounters:
        """The same memory in a worker, which inherits `fd`."""
        return cls(fd, workers, index, mmap.mmap(fd, os.fstat(fd).st_size))

    def add(self, counter: int, by: int) -> None:
        """Count in this worker's row."""
        place = self.index * _ROW + counter * _CELL.size
        _CELL.pack_into(self.cells, place, _CELL.unpack_from(self.cells, place)[0] + by)

    def put(self, counter: int, value: int) -> None:
        """Set a counter of this worker's row."""
        _CELL.pack_into(self.cells, self.index * _ROW + counter * _CELL.size, value)

    def values(self, counter: int) -> list[int]:
        """The counter in the row of each worker."""
        offset = counter * _CELL.size
        return [int(_CELL.unpack_from(self.cells, index * _ROW + offset)[0]) for index in range(self.workers)]

    def total(self, counter: int) -> int:
        """The sum over all workers."""
        return sum(self.values(counter))

    def clear(self, index: int) -> None:
        """Forget what a worker that has died had counted."""
        self.cells[index * _ROW : (index + 1) * _ROW] = bytes(_ROW)

    @property
    def salt(self) -> bytes:
        """The same in all workers, and nobody else knows it."""
        return self.cells[len(self.cells) - _SALT_BYTES :]

    def record_at(self, place: int) -> int:
        """Where in the memory a record of the table is."""
        return self.workers * _ROW + place * RECORD_BYTES

    def write_page(self, data: bytes) -> bool:
        """Replace this worker's page; whether there was room."""
        if len(data) > _SIDE_BYTES:
            return False
        at = self._page_at(self.index)
        with self.locked(at):
            side = 1 - _HEAD.unpack_from(self.cells, at)[0]
            begin = at + _HEAD.size + side * _SIDE_BYTES
            self.cells[begin : begin + len(data)] = data
            _HEAD.pack_into(self.cells, at, side, len(data))  # who is killed before has written nothing
        return True

    def read_page(self, index: int) -> bytes:
        """What that worker, or the one before it in its place, wrote last; b"" before anything was."""
        at = self._page_at(index)
        with self.locked(at):
            side, length = _HEAD.unpack_from(self.cells, at)
            begin = at + _HEAD.size + side * _SIDE_BYTES
            return self.cells[begin : begin + length]

    def _page_at(self, index: int) -> int:
        return self.workers * _ROW + PLACES * RECORD_BYTES + index * _PAGE_BYTES

    @contextmanager
    def locked(self, place: int) -> Iterator[None]:
        """No other process is in a block of the same place; unless one hangs in it, who is not waited for longer than
        20 ms: a wrong count is better than a server that stands still.
        """
        import fcntl  # where there is none there are no workers

        held = False
        for tried in range(_QUICK_TRIES + _TRIES):
            try:
                fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
                held = True
                break
            except (BlockingIOError, PermissionError):
                if tried < _QUICK_TRIES:
                    os.sched_yield()
                else:
                    time.sleep(_PAUSE_SECONDS)
        try:
            yield
        finally:
            if held:
                fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, place)

    def close(self) -> None:
        """Let go of the memory."""
        self.cells.close()
        os.close(self.fd)
