"""Binding the threads of engines with OpenMP to cores while several compute.

Two engines have twice as many threads as there are cores. Where the kernel moves them, both threads of an engine may be
on one core while the other core computes for somebody else, and wait for each other. Bound, one to each core, each
engine has its share of every core. An engine that computes alone is not bound: beside other programs the kernel knows
better.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from miner.core.engine.procstat import process_usage
from miner.core.engine.spec import Engine

_RELEASE_AFTER = 1.0
"""Seconds without a second engine after which threads are released."""


class CoreBinder:
    """Binds the engines that can be while at least two of them compute. On one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._bound: set[Engine] = set()
        self._timer: asyncio.TimerHandle | None = None

    def update(self, computing: Iterable[Engine]) -> None:
        """Set the engines that have requests."""
        busy = [engine for engine in computing if engine.can_bind]
        if len(busy) < 2:
            if self._bound and self._timer is None:
                self._timer = self._loop.call_later(_RELEASE_AFTER, self.release)
            return
        self._cancel()
        for engine in busy:
            if engine not in self._bound:
                self._bound.add(engine)
                engine.bind()

    def release(self) -> None:
        """Release all."""
        for engine in self._bound:
            engine.release()
        self.close()

    def close(self) -> None:
        """Forget all: they are being stopped."""
        self._cancel()
        self._bound.clear()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def bind_threads(pid: int, count: int) -> None:
    """Bind the `count` busiest threads of a process and its descendants to one core each. Threads whose affinity is not
    that of this process are left alone: somebody has chosen it.
    """
    allowed = os.sched_getaffinity(0)
    used: list[tuple[int, int]] = []
    for task in _threads(pid):
        with contextlib.suppress(OSError, ValueError, IndexError):
            if os.sched_getaffinity(int(task.name)) == allowed:
                fields = (task / "stat").read_bytes().rpartition(b")")[2].split()
                used.append((int(fields[11]) + int(fields[12]), int(task.name)))
    busiest = sorted(thread for _, thread in sorted(used)[-count:])
    for thread, cpu in zip(busiest, _one_of_each_core(allowed), strict=False):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(thread, {cpu})


def release_threads(pid: int) -> None:
    """Undo `bind_threads`."""
    allowed = os.sched_getaffinity(0)
    for task in _threads(pid):
        with contextlib.suppress(OSError):
            if len(os.sched_getaffinity(int(task.name))) == 1:
                os.sched_setaffinity(int(task.name), allowed)


def _threads(pid: int) -> list[Path]:
    usage = process_usage(pid)
    found: list[Path] = []
    for process, _ in usage.processes if usage is not None else ():
        with contextlib.suppress(OSError):
            found += Path(f"/proc/{process}/task").iterdir()
    return found


def _one_of_each_core(allowed: set[int]) -> list[int]:
    """One processor of each physical core."""
    cores: dict[str, int] = {}
    for cpu in sorted(allowed):
        try:
            siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
        except OSError:
            siblings = str(cpu)
        cores.setdefault(siblings, cpu)
    return list(cores.values())
