"""Ctrl-C inside a chat: it stops what is going on, not the chat.

One handler stays for the whole chat. A handler for each prompt and each response would leave gaps between them, and a
Ctrl-C there would end the chat, or be lost.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar, cast

T = TypeVar("T")


class _Interrupts:
    """What Ctrl-C does now."""

    def __init__(self, also: Callable[[], object]) -> None:
        self._also = also
        self.calls: list[Callable[[], bool]] = []
        """The last one is made; it returns False if it had nothing left to stop."""
        self.missed = False
        """Whether a Ctrl-C came when there was nothing to stop: it is for what begins next."""

    def arrive(self) -> None:
        """Handle a Ctrl-C."""
        self._also()
        self.missed = not (self.calls and self.calls[-1]())


_CURRENT: ContextVar[_Interrupts | None] = ContextVar("interrupts", default=None)


@contextmanager
def interrupts_kept(also: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Within the block Ctrl-C is for `on_interrupt` alone. One that comes between two of its blocks is for the next.

    Args:
        also: is called on each.
    """
    loop, interrupts = asyncio.get_running_loop(), _Interrupts(also)
    before = signal.signal(signal.SIGINT, lambda *_: loop.call_soon_threadsafe(interrupts.arrive))
    token = _CURRENT.set(interrupts)
    try:
        yield
    finally:
        _CURRENT.reset(token)
        signal.signal(signal.SIGINT, before)


@contextmanager
def on_interrupt(call: Callable[[], bool]) -> Iterator[None]:
    """Within the block Ctrl-C makes this call, and nothing else.

    Args:
        call: returns False if it had nothing left to stop: then the Ctrl-C is for the next block.
    """
    with ExitStack() as stack:
        if _CURRENT.get() is None:
            stack.enter_context(interrupts_kept())
        interrupts = _CURRENT.get()
        assert interrupts is not None
        interrupts.calls.append(call)
        if interrupts.missed:
            interrupts.missed = False
            asyncio.get_running_loop().call_soon(interrupts.arrive)
        try:
            yield
        finally:
            interrupts.calls.remove(call)


async def in_background(call: Callable[[], T]) -> T:
    """Return what a call that blocks returns, from a thread that nobody waits for once this is cancelled: what it reads
    may be a pipe.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(cast("T", result))

    def run() -> None:
        result, error = None, None
        try:
            result = call()
        except BaseException as raised:  # noqa: BLE001  (it is raised where it is awaited)
            error = raised
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, daemon=True).start()
    return await done


class Interrupted(Exception):
    """Ctrl-C stopped what `interruptible` ran."""


async def interruptible(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of work that Ctrl-C cancels; its cleanup is waited for.

    Raises:
        Interrupted: Ctrl-C cancelled it.
    """
    stopped = False
    task = asyncio.ensure_future(work)

    def stop() -> bool:
        nonlocal stopped
        if task.done():
            return False
        stopped = True
        task.cancel()
        return True

    with on_interrupt(stop):
        try:
            return await task
        except asyncio.CancelledError:
            if not task.done():  # we are cancelled ourselves, by SIGTERM
                task.cancel()
                await asyncio.wait([task])
            if stopped and not _being_cancelled():
                raise Interrupted from None
            raise


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
