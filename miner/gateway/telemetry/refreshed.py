"""Refreshed: a value that is asked for elsewhere, and never waited for long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Refreshed(Generic[T]):
    """The last value of something that another server may be slow to tell.

    Args:
        ask: asks for it; raises nothing that is expected.
        default: the value while there is none.
        max_age: seconds for which a value is not asked for again.
        drop_after: seconds after which one that could not be refreshed is the default again.
        wait: seconds that `recent` waits at most while it has a value.
        first_wait: the same while it has none, or one that is to be dropped.
    """

    def __init__(
        self, ask: Callable[[], Awaitable[T]], default: T, *, max_age: float, drop_after: float = 30.0,
        wait: float = 0.1, first_wait: float = 0.5,
    ) -> None:  # fmt: skip
        self._ask, self._default = ask, default
        self._max_age, self._drop_after = max_age, drop_after
        self._wait, self._first_wait = wait, first_wait
        self._value: T | None = None
        self._at = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    async def recent(self) -> T:
        """The value: fresh if it comes soon, else the last one, while it is refreshed behind."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._at > self._max_age:
            if self._asking is None or self._asking.done():
                self._asking = loop.create_task(self._refresh())
            known = loop.time() - self._at <= self._drop_after
            await asyncio.wait({self._asking}, timeout=self._wait if known else self._first_wait)
        if self._value is None or loop.time() - self._at > self._drop_after:
            return self._default
        return self._value

    async def _refresh(self) -> None:
        self._value = await self._ask()
        self._at = asyncio.get_running_loop().time()

    async def close(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
