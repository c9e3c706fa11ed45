"""Errors that nobody foresaw: what the code of a backend or a hook raises besides errors of ours."""

from __future__ import annotations

import asyncio
from types import TracebackType

from miner.errors import MinerError
from miner.gateway.errors import ClientGoneError, InternalServerError

__all__ = ["Contained"]


class Contained:
    """Turns whatever leaves the block into an InternalServerError, with the exception as its cause.

    Errors of ours, a client that has gone, and the cancelling of this task stay what they are. A CancelledError that
    nobody asked this task for, SystemExit, GeneratorExit and such are the backend's own affair: in a task of a request
    they would end a connection without a response, or the whole server. A block with a `yield` in it is none of these.
    """

    __slots__ = ("_cancelling", "_task")

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, (MinerError, ClientGoneError)):
            return
        if isinstance(error, GeneratorExit) and _current_task() is not self._task:
            return  # the task was dropped, and its coroutine is closed
        if isinstance(error, asyncio.CancelledError) and self._task.cancelling() > self._cancelling:
            return
        raise InternalServerError from error


def _current_task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop runs any more
        return None
