"""A future that is set once, by any thread, and awaited by any number of tasks on any event loops."""

from __future__ import annotations

import asyncio
import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedFuture(Generic[T]):
    """Like `concurrent.futures.Future`, but a cancelled wait leaves nothing behind.

    `asyncio.wrap_future` adds a callback that stays until the future is done: a leak for each request that waits for
    the exit of an engine.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._happened = threading.Event()
        self._value: list[T] = []
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def done(self) -> bool:
        """Whether it is set."""
        return self._happened.is_set()

    @property
    def value(self) -> T | None:
        """The value; None before it is set."""
        return self._value[0] if self._value else None

    def set(self, value: T) -> None:
        """Set the value; only the first call has an effect."""
        with self._lock:
            if self._value:
                return
            self._value.append(value)
            self._happened.set()
            waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            try:
                waiter.get_loop().call_soon_threadsafe(_wake, waiter)
            except RuntimeError:  # the loop is closed
                continue

    async def wait(self) -> T:
        """Wait for the value."""
        with self._lock:
            if self._value:
                return self._value[0]
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
        try:
            await waiter
        finally:
            with self._lock:
                self._waiters.discard(waiter)
        return self._value[0]

    def wait_blocking(self, timeout: float) -> T | None:
        """Wait for the value in this thread; None after `timeout` seconds."""
        self._happened.wait(timeout)
        return self.value


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
