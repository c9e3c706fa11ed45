"""Ending requests when the grace time is over: each gets a typed error, not a broken connection."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING

from miner.gateway.errors import RefusedError

if TYPE_CHECKING:
    from miner.gateway.context import RequestContext

__all__ = ["Interruptible", "interrupt"]


def interrupt(context: RequestContext) -> None:
    """End this request: what it awaits is cancelled, and it tells its client why."""
    task = context.task
    if task is not None and not context.interrupted:
        context.interrupted = True
        task.cancel()


class Interruptible:
    """Turns the cancelling of `interrupt` into an error, as asyncio.timeout does with its own. A client that hung up,
    too, cancels the task: that stays as it is.
    """

    __slots__ = ("_cancelling", "_exchange")

    def __init__(self, context: RequestContext) -> None:
        self._exchange = context
        self._cancelling = 0

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._exchange.task = task
        self._cancelling = task.cancelling()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        context = self._exchange
        if kind is not asyncio.CancelledError or not context.interrupted or context.task is None:
            return
        task, context.task = context.task, None
        if task.uncancel() <= self._cancelling:
            raise RefusedError(503, "shutting_down", "The server is shutting down.", retry_after=5) from None
