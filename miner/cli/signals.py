"""Ctrl-C and SIGTERM cancel the command's task, which cleans up; the exit status is 128 + signal."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
_GRACE_SECONDS = 15.0
"""Seconds for cleanup: longer than an engine gets between SIGTERM and SIGKILL."""


class StopSignals:
    """Cancels a task on the first signal, its cleanup on the second, and exits the process on the third or when the
    cleanup takes too long. Engines exit with their parent process, so even that leaves no child behind.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        """The first signal received."""
        self._count = 0
        self._task: asyncio.Task[Any] | None = None
        self._blocking = False

    @contextmanager
    def handled_for(self, task: asyncio.Task[Any]) -> Iterator[None]:
        """Handle the signals within the block. One that is ignored (nohup, a background job) stays ignored."""
        self._task = task
        previous: dict[int, Any] = {}
        for name in _NAMES:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                previous[number] = signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def blocking(self) -> Iterator[None]:
        """Let a signal interrupt a call that blocks the event loop, such as a write to a full pipe."""
        self._blocking = True
        try:
            yield
        finally:
            self._blocking = False

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._count += 1
        if self.received is None:
            self.received = number
        if self._count > 2:
            os._exit(128 + self.received)
        if self._blocking:
            raise asyncio.CancelledError
        if self._task is not None:
            # Not task.cancel alone: the loop may be waiting in select.
            self._task.get_loop().call_soon_threadsafe(self._stop, self._task)

    def _stop(self, task: asyncio.Task[Any]) -> None:
        task.cancel()
        task.get_loop().call_later(_GRACE_SECONDS, os._exit, 128 + (self.received or 0))


def run_until_stopped(
    main: Callable[[StopSignals], Coroutine[Any, Any, int]],
    *,
    on_stopped: Callable[[int], object] | None = None,
    uvloop: bool = False,
) -> int:
    """Run a command's coroutine and return its exit status, or 128 + signal if one stopped it.

    Args:
        on_stopped: called with the signal that stopped it, after its cleanup.
        uvloop: use its event loop, which is faster, where it is installed.
    """
    signals = StopSignals()
    with asyncio.Runner(loop_factory=_uvloop_factory() if uvloop else None) as runner:
        loop = runner.get_loop()
        task = loop.create_task(main(signals))
        try:
            with signals.handled_for(task):
                return loop.run_until_complete(task)
        except asyncio.CancelledError:
            if signals.received is None:
                raise
        if on_stopped is not None:
            on_stopped(signals.received)
        status = 128 + signals.received
        _exit_if_threads_run(loop, status)
    return status


def _uvloop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _exit_if_threads_run(loop: asyncio.AbstractEventLoop, status: int) -> None:
    """Exit at once while a worker thread runs: a DNS lookup cannot be cancelled and may take half a minute, and all
    that needs closing is closed.
    """
    if not any(thread.name.startswith("asyncio_") for thread in threading.enumerate()):
        return
    loop.run_until_complete(loop.shutdown_asyncgens())
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            pass
    os._exit(status)
