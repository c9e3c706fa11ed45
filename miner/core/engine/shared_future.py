"""A value that arrives once, from any thread, and is awaited by any number of tasks on any event loops."""

from __future__ import annotations

import asyncio
import threading
from typing import Generic, TypeVar

__all__ = ["SharedFuture"]

T = TypeVar("T")


class SharedFuture(Generic[T]):
    """Like a `concurrent.futures.Future`, but a wait that is cancelled leaves nothing behind.

    (`asyncio.wrap_future` adds a callback that stays until the future is done: a leak for each request
    that waits for the death of an engine which lives for weeks.)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._happened = threading.Event()
        self._value: list[T] = []
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def done(self) -> bool:
        """Whether the value is there."""
        return self._happened.is_set()

    @property
    def value(self) -> T | None:
        """The value, None before it has come."""
        return self._value[0] if self._value else None

    def set(self, value: T) -> None:
        """Give the value; the first one counts, later ones are dropped."""
        with self._lock:
            if self._value:
                return
            self._value.append(value)
            self._happened.set()
            waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            try:
                waiter.get_loop().call_soon_threadsafe(_wake, waiter)
            except RuntimeError:  # that loop is closed, so nobody waits there any more
                continue

    async def wait(self) -> T:
        """The value, as soon as it is there."""
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
        """The value, or None after `timeout` seconds. Blocks the thread."""
        self._happened.wait(timeout)
        return self.value


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
