"""Deadline: the timeouts that a request itself sets, over everything that it waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from typing import TypeVar

from miner.core.llms.contract.join import has_tokens
from miner.core.llms.contract.stream import Batches
from miner.core.wire import LLMChunk, Timeout
from miner.errors import BackendTimeoutError, CallTimeoutError

T = TypeVar("T")


class Deadline:
    """The request's own timeouts: when they end, and the error then. Its clock starts with it.

    Args:
        name: the backend, for the error.
        began: when the call began, in the event loop's time, where other backends were tried before; None: now.

    Attributes:
        bounds_tokens: whether the waits for tokens are bounded, and not only the call.
        total: deadline of the call, in the event loop's time.
        first_token: seconds until the first token of a non-streaming response.
    """

    def __init__(self, name: str, timeout: Timeout | None, began: float | None = None) -> None:
        self._name = name
        self._timeout = timeout or Timeout()
        self._time = asyncio.get_running_loop().time
        self._last = self._time()
        self._began = self._last if began is None else began
        self._waits_for_first = True
        self.first_token: float | None = None
        self.bounds_tokens = self._timeout.first is not None or self._timeout.between is not None
        self.total = None if self._timeout.total is None else self._began + self._timeout.total

    @property
    def elapsed(self) -> float:
        """Seconds since the call began."""
        return self._time() - self._began

    @property
    def when(self) -> float | None:
        """When the current wait ends, in the event loop's time; None: never."""
        span = self._timeout.first if self._waits_for_first else self._timeout.between
        ends = [end for end in (self.total, None if span is None else self._last + span) if end is not None]
        return min(ends, default=None)

    def restart(self) -> None:
        """The request is sent: after an attempt that had sent tokens, wait for the first again."""
        if not self._waits_for_first:
            self._waits_for_first = True
            self._last = self._time()

    def note(self, batch: list[LLMChunk]) -> None:
        """Restart the timeout if the batch has tokens."""
        if has_tokens(batch):
            self._waits_for_first = False
            self._last = self._time()

    def error(self) -> BackendTimeoutError:
        """The error for the wait that has ended."""
        bound, cls = "first" if self._waits_for_first else "between", BackendTimeoutError
        if self.total is not None and self._time() >= self.total:
            bound, cls = "total", CallTimeoutError
        return cls(
            f"{self._name} exceeded timeout.{bound} ({getattr(self._timeout, bound):g} s).",
            backend=self._name,
            hint="Raise the request's timeout, or request fewer tokens.",
        )

    @asynccontextmanager
    async def entered(self, context: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
        """The same context, waiting no longer than the request's timeouts allow until it is entered."""
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout_at(self.when) as timer:
                    value = await stack.enter_async_context(context)
            except TimeoutError:
                if not timer.expired():
                    raise
                raise self.error() from None
            yield value

    async def bounded(self, batches: Batches) -> Batches:
        """The same batches, each awaited no longer than the request's timeouts allow."""
        async with aclosing(batches):
            while True:
                timer = asyncio.timeout_at(self.when)
                try:
                    async with timer:
                        batch = await anext(batches)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    if not timer.expired():
                        raise
                    raise self.error() from None
                self.note(batch)
                yield batch
