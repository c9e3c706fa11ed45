"""Ctrl-C inside a chat: it stops what is going on, not the chat."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


@contextmanager
def on_interrupt(call: Callable[[], object]) -> Iterator[None]:
    """Within the block Ctrl-C makes this call, and nothing else."""
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGINT)
    try:
        loop.add_signal_handler(signal.SIGINT, call)
    except NotImplementedError:  # Windows: Ctrl-C ends the chat
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)


class Interrupted(Exception):
    """Ctrl-C stopped what `interruptible` ran."""


async def interruptible(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of work that Ctrl-C cancels; its cleanup is waited for.

    Raises:
        Interrupted: Ctrl-C cancelled it.
    """
    stopped = False
    task = asyncio.ensure_future(work)

    def stop() -> None:
        nonlocal stopped
        stopped = True
        task.cancel()

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
