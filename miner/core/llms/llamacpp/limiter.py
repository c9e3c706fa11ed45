"""The queue in front of an external llama.cpp server: fair between clients, bounded, cancellable.

llama.cpp's own queue has no bound, and a request that waits there is noticed late when its client disconnects.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from miner.core.counted import counted
from miner.core.fair_queue import Permits, QueueFullError
from miner.core.llms.contract.queue_client import QueueClient
from miner.errors import BackendOverloadedError


class SlotLimiter:
    """Sends `slots` requests at once at most. Belongs to one event loop.

    Args:
        backend: name for errors.
        slots: requests at once.
        max_queue: requests that wait at most.
        timeout: seconds that each waits at most.
    """

    def __init__(self, backend: str, slots: int, *, max_queue: int, timeout: float) -> None:
        self._backend = backend
        self._timeout = timeout
        self._permits = Permits(slots, max_queue)

    @property
    def busy(self) -> int:
        """Slots in use."""
        return self._permits.held

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return self._permits.waiting

    def resize(self, slots: int) -> None:
        """Change how many requests are sent at once, from now on."""
        self._permits.resize(slots)

    @asynccontextmanager
    async def slot(self, client: QueueClient) -> AsyncIterator[float]:
        """Hold one slot for the length of the block; yields the seconds of waiting for it.

        Raises:
            BackendOverloadedError: too many wait, or the wait was longer than `timeout`.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            with client.wait():
                await self._permits.acquire(client.in_queue, self._timeout)
        except QueueFullError:
            why = f"{counted(self.waiting, 'request')} {'waits' if self.waiting == 1 else 'wait'} for a slot already"
            raise self._overloaded(why, "MINER_MAX_QUEUE") from None
        except TimeoutError:
            why = f"no slot was free within {self._timeout:g} s"
            raise self._overloaded(why, "MINER_QUEUE_TIMEOUT") from None
        waited = loop.time() - began
        client.record(waited)
        try:
            yield waited
        finally:
            self._permits.release(client.in_queue)

    def _overloaded(self, why: str, setting: str) -> BackendOverloadedError:
        return BackendOverloadedError(
            f"{self._backend} is overloaded: {why}.",
            backend=self._backend,
            retry_after=1.0,
            hint="Try again later.",
            operator_hint=f"Raise {setting}.",
        )
