"""Calls in flight: closing their owner cancels them wherever they wait (in a queue, a connect, a backoff, a read)."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Any


class InFlight:
    """The calls of one client or service.

    Args:
        closed: makes the error that a cancelled call raises.
    """

    def __init__(self, closed: Callable[[], Exception]) -> None:
        self.closed = closed
        self.calls: set[InFlightCall] = set()

    def call(self) -> InFlightCall:
        """Return a new call, a context manager around everything that it awaits."""
        return InFlightCall(self)

    def stop(self) -> None:
        """Cancel the calls that wait now. A suspended one (a stream between two reads) raises when it is resumed."""
        for call in list(self.calls):
            call.stop()

    async def end(self) -> None:
        """Like `stop`, and close suspended streams too: an engine must not wait for a reader that may never resume."""
        await asyncio.gather(*(call.end() for call in list(self.calls)), return_exceptions=True)


class InFlightCall:
    """One call. As a context manager it raises the owner's error in place of the cancellation; a stream uses `enter`,
    `leave` and `finish` around each of its reads instead.
    """

    __slots__ = ("__weakref__", "_base", "_cancelled", "_closing", "_generator", "_owner", "reader", "stopped", "task")

    def __init__(self, owner: InFlight) -> None:
        self._owner = owner
        self.task: asyncio.Task[Any] | None = None
        """The task that currently waits in it."""
        self.reader: asyncio.Task[Any] | None = None
        """The task that waited last."""
        self.stopped = False
        self._base = 0
        self._cancelled = False
        self._closing = False
        self._generator: weakref.ref[AsyncGenerator[Any, None]] | None = None

    def closed(self) -> Exception:
        """Return the error to raise when the owner was closed."""
        return self._owner.closed()

    def watch(self, generator: AsyncGenerator[Any, None]) -> None:
        """Register the generator that `end` closes while no task waits in it. Held weakly."""
        self._generator = weakref.ref(generator)

    def enter(self) -> bool:
        """Register the running task as waiting in it. Return False if it was stopped: there is nothing to wait for."""
        self.task = self.reader = task = asyncio.current_task()
        self._base = task.cancelling() if task is not None else 0
        self._owner.calls.add(self)
        return not self.stopped

    def leave(self) -> bool:
        """Unregister the waiting task. Return whether it was cancelled by `stop` and by nothing else."""
        task, self.task = self.task, None
        if not self._cancelled:
            return False
        self._cancelled = False
        return task is not None and task.uncancel() <= self._base

    def finish(self) -> bool:
        """End the call. Return whether `end` is closing its generator."""
        self._owner.calls.discard(self)
        self._generator = None
        return self._closing

    def stop(self) -> None:
        """Cancel the task that waits in it; `leave` takes the cancellation back. Idempotent."""
        if self.stopped:
            return
        self.stopped = True
        task = self.task
        if task is None or task.done():
            return
        loop = task.get_loop()
        if loop is _running_loop():
            if task is not asyncio.current_task():  # a task that closes its own owner
                self._cancel()
        elif not loop.is_closed():
            try:
                loop.call_soon_threadsafe(self._cancel)
            except RuntimeError:
                pass  # closed in the meantime

    def _cancel(self) -> None:
        if self.task is not None:
            self._cancelled = True
            self.task.cancel()

    async def end(self) -> None:
        """Stop it, and close its generator if no task waits in it."""
        self.stop()
        generator = self._generator() if self._generator is not None else None
        if generator is not None and self.task is None and not self._closing and self._is_here():
            self._closing = True
            await generator.aclose()

    def _is_here(self) -> bool:
        return self.reader is None or self.reader.get_loop() is _running_loop()

    def __enter__(self) -> InFlightCall:
        self.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ours = self.leave()
        self.finish()
        if ours and isinstance(error, asyncio.CancelledError):
            raise self._owner.closed() from None


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
