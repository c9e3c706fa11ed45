"""The server's log: every line of the process on one descriptor, in one form, written by a thread.

No request ever waits for a disk or a reader: lines go through a queue (`logging.handlers`), and what cannot be written
is lost and counted.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import QueueHandler, QueueListener
from types import TracebackType
from typing import Any, Literal

from miner.core._typing import override
from miner.gateway.server.log_format import JsonFormatter, TextFormatter

__all__ = ["server_log"]

_MOST_BYTES = 8 * 1024 * 1024
"""Of lines that wait to be written; later ones are lost."""
_PAUSE_SECONDS = 0.05
"""For which lines are collected: together they cost one write."""
_CLOSE_SECONDS = 2.0


@contextmanager
def server_log(form: Literal["text", "json"], level: str, *, fd: int = 2) -> Iterator[Lines]:
    """While the block lasts, everything that is logged, warned of or not caught anywhere is written to `fd`.

    Args:
        form: of all lines.
        level: the least that is written: debug, info, warning, error or critical.
        fd: where to; standard error.
    """
    lines = Lines(fd, JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    handlers, before = root.handlers[:], root.level
    root.handlers[:] = [lines.handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    sys.excepthook, threading.excepthook, sys.unraisablehook = _uncaught, _uncaught_in_thread, _unraisable
    # The error that a request ends with is logged once, under its id.
    # The same words before each retry are for debugging.
    retries = logging.getLogger("miner.retry")
    retries_before = retries.level
    retries.setLevel(logging.NOTSET if level == "debug" else logging.ERROR)
    lines.start()
    try:
        yield lines
    finally:
        sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
        logging.captureWarnings(False)
        root.handlers[:] = handlers
        root.setLevel(before)
        retries.setLevel(retries_before)
        lines.close()


class Lines:
    """The way of the records: the loop's side puts formatted lines into a queue, a thread writes them."""

    def __init__(self, fd: int, formatter: logging.Formatter) -> None:
        self.lost = 0
        """Lines that were lost and are not told yet."""
        self._formatter = formatter
        self._waiting = 0
        self._lock = threading.Lock()
        self._records: queue.SimpleQueue[logging.LogRecord | None] = queue.SimpleQueue()
        self._writer = _Writer(fd, self)
        self.handler = _Handler(self._records, self)
        self._listener = _Listener(self._records, self._writer)

    def start(self) -> None:
        """Start the thread."""
        self._listener.start()

    def close(self) -> None:
        """Write what is left, as far as that goes within 2 seconds."""
        # A daemon, like the listener's own thread: one that hangs in a write must not keep the process.
        closing = threading.Thread(target=self._stop, name="server log, closing", daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)

    def _stop(self) -> None:
        self._listener.stop()
        self._writer.write_collected()

    def line(self, record: logging.LogRecord) -> bytes:
        """The record as it is written."""
        return self._formatter.format(record).encode(errors="backslashreplace") + b"\n"

    def take(self, size: int) -> bool:
        """Whether there is room for a line of this size; it is lost otherwise."""
        with self._lock:
            if self._waiting + size > _MOST_BYTES:
                self.lost += 1
                return False
            self._waiting += size
            return True

    def written(self, size: int) -> None:
        """Lines of this size wait no longer."""
        with self._lock:
            self._waiting -= size

    def take_lost(self) -> int:
        """How many lines were lost since this was asked last."""
        with self._lock:
            lost, self.lost = self.lost, 0
        return lost

    def lose(self, count: int) -> None:
        """Count lines that could not be written."""
        with self._lock:
            self.lost += count


class _Handler(QueueHandler):
    """Formats where it is logged: only there is the request known. A line that cannot be made breaks nothing."""

    def __init__(self, records: Any, lines: Lines) -> None:
        super().__init__(records)
        self._lines = lines

    @override
    def prepare(self, record: logging.LogRecord) -> Any:
        return self._lines.line(record)

    @override
    def enqueue(self, record: Any) -> None:
        if self._lines.take(len(record)):
            self.queue.put_nowait(record)

    @override
    def handleError(self, record: logging.LogRecord) -> None:
        self._lines.lose(1)


class _Listener(QueueListener):
    """Writes when the queue is empty, and gives it time to fill again."""

    def __init__(self, records: queue.SimpleQueue[Any], writer: _Writer) -> None:
        super().__init__(records, writer)
        self._records = records
        self._writer = writer

    @override
    def dequeue(self, block: bool) -> Any:
        try:
            return self._records.get_nowait()
        except queue.Empty:
            self._writer.write_collected()
        found = self._records.get(block)
        time.sleep(_PAUSE_SECONDS)
        return found


class _Writer(logging.Handler):
    """The thread's side."""

    def __init__(self, fd: int, lines: Lines) -> None:
        super().__init__()
        self._fd = fd
        self._lines = lines
        self._collected: list[bytes] = []

    @override
    def handle(self, record: Any) -> bool:
        self._collected.append(record)
        return True

    def write_collected(self) -> None:
        """Write the lines that have come."""
        collected, self._collected = self._collected, []
        if not collected:
            return
        lost, text = self._lines.take_lost(), b"".join(collected)
        size = len(text)
        if lost:
            notice = logging.LogRecord(
                "miner.gateway", logging.WARNING, __file__, 0, "%d lines of the log were lost", (lost,), None
            )
            text = self._lines.line(notice) + text
        try:
            while text:
                text = text[os.write(self._fd, text) :]
        except OSError:  # full disk, closed pipe: perhaps the next one can be written
            self._lines.lose(lost + len(collected))
        self._lines.written(size)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("miner").critical("Uncaught exception.", exc_info=(kind, error, trace))


def _uncaught_in_thread(caught: threading.ExceptHookArgs) -> None:
    if caught.exc_value is None or issubclass(caught.exc_type, SystemExit):
        return
    name = caught.thread.name if caught.thread is not None else "?"
    info = (caught.exc_type, caught.exc_value, caught.exc_traceback)
    logging.getLogger("miner").critical("Uncaught exception in the thread %s.", name, exc_info=info)


def _unraisable(caught: Any) -> None:
    info = (caught.exc_type, caught.exc_value, caught.exc_traceback)
    logging.getLogger("miner").error("%s: %r", caught.err_msg or "Exception ignored in", caught.object, exc_info=info)
