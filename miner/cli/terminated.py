"""SIGTERM as an exception, so that a command can say that it was stopped."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM ended a command as Ctrl-C does."""


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Within the block SIGTERM raises Terminated, unless it is ignored or handled already."""

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    try:
        signal.signal(signal.SIGTERM, on_signal)
    except ValueError:  # not in the main thread, which alone gets signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
