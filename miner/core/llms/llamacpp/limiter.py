"""Waiting in front of a server that somebody else runs: in order, bounded, cancellable.

llama.cpp's own queue has no bound, and a request that waits there is noticed late when its client goes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from miner.errors import BackendOverloadedError

__all__ = ["Gate"]


class Gate:
    """Lets `slots` requests through at once; first come, first served. Belongs to one event loop.

    Args:
        backend: name for errors.
        slots: requests at once.
        max_queue: requests that wait at most.
        timeout: seconds that each waits at most.
    """

    def __init__(self, backend: str, slots: int, *, max_queue: int, timeout: float) -> None:
        self._backend = backend
        self._slots = slots
        self._max_queue = max_queue
        self._timeout = timeout
        self._waiters: deque[asyncio.Future[None]] = deque()
        self.busy = 0
        """Requests that are through."""

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiters)

    def resize(self, slots: int) -> None:
        """Let so many through from now on."""
        self._slots = slots
        self._wake()

    def _wake(self) -> None:
        while self._waiters and self.busy < self._slots:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self.busy += 1
                waiter.set_result(None)

    async def _acquire(self) -> None:
        if self.busy < self._slots and not self._waiters:
            self.busy += 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._release()  # it came through in the very moment
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            raise

    def _release(self) -> None:
        self.busy -= 1
        self._wake()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[float]:
        """Hold one place; gives the seconds that it was waited for.

        Raises:
            BackendOverloadedError: the queue is full, or the wait was too long.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        if self.busy >= self._slots and self.waiting >= self._max_queue:
            raise self._overloaded(f"{self.waiting} requests wait already", "MINER_MAX_QUEUE")
        timer = asyncio.timeout(self._timeout)
        try:
            async with timer:
                await self._acquire()
        except TimeoutError:
            raise self._overloaded(f"no slot became free in {self._timeout:g} s", "MINER_QUEUE_TIMEOUT") from None
        try:
            yield loop.time() - began
        finally:
            self._release()

    def _overloaded(self, why: str, setting: str) -> BackendOverloadedError:
        return BackendOverloadedError(
            f"{self._backend} is overloaded: {why}.",
            backend=self._backend,
            retry_after=1.0,
            hint=f"Try again later, or raise {setting}.",
        )
