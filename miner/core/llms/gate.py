"""Waiting in front of a server that somebody else runs: in order, bounded, cancellable.

llama.cpp's own queue has no bound, and a request that waits there is noticed late when its client goes.
"""

from __future__ import annotations

import asyncio
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
        self._slots = asyncio.Semaphore(slots)
        self._max_queue = max_queue
        self._timeout = timeout
        self.waiting = 0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[float]:
        """Hold one place; gives the seconds that it was waited for.

        Raises:
            BackendOverloadedError: the queue is full, or the wait was too long.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        if self._slots.locked() and self.waiting >= self._max_queue:
            raise self._overloaded(f"{self.waiting} requests wait already", "MINER_MAX_QUEUE")
        self.waiting += 1
        timer = asyncio.timeout(self._timeout)
        try:
            async with timer:
                await self._slots.acquire()
        except TimeoutError:
            raise self._overloaded(f"no slot became free in {self._timeout:g} s", "MINER_QUEUE_TIMEOUT") from None
        finally:
            self.waiting -= 1
        try:
            yield loop.time() - began
        finally:
            self._slots.release()

    def _overloaded(self, why: str, setting: str) -> BackendOverloadedError:
        return BackendOverloadedError(
            f"{self._backend} is overloaded: {why}.",
            backend=self._backend,
            retry_after=1.0,
            hint=f"Try again later, or raise {setting}.",
        )
