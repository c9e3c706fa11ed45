"""The server's log: every line of the process on one descriptor, in one format, written by a thread.

No request ever waits for a disk or a reader: lines go through a queue; those that cannot be written are lost and
counted.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal

from miner.core._typing import override
from miner.gateway.server.log_format import JsonFormatter, TextFormatter

_MAX_BYTES = 8 * 1024 * 1024
"""Maximum bytes of lines in the queue; later ones are lost."""
_PAUSE_SECONDS = 0.05
"""Seconds for which lines are collected into one write."""
_CLOSE_SECONDS = 2.0


@contextmanager
def server_log(
    form: Literal["text", "json"], level: str, *, fd: int = 2, also: Iterable[logging.Handler] = ()
) -> Iterator[LogWriter]:
    """While the block lasts, everything that is logged, all warnings and uncaught exceptions are written to `fd`.

    Args:
        form: the format of all lines.
        level: the lowest that is written: debug, info, warning, error or critical.
        fd: a file descriptor; standard error.
        also: handlers that get the same records.
    """
    writer = LogWriter(fd, JsonFormatter() if form == "json" else TextFormatter(terminal=os.isatty(fd)))
    root = logging.getLogger()
    handlers, before = root.handlers[:], root.level
    root.handlers[:] = [writer, *also]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    sys.excepthook, threading.excepthook, sys.unraisablehook = _uncaught, _uncaught_in_thread, _unraisable
    # The error with which a request ends is logged once, under its id; those before each retry are for debugging.
    retries = logging.getLogger("miner.retry")
    retries_before = retries.level
    retries.setLevel(logging.NOTSET if level == "debug" else logging.ERROR)
    writer.start()
    try:
        yield writer
    finally:
        sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
        logging.captureWarnings(False)
        root.handlers[:] = handlers
        root.setLevel(before)
        retries.setLevel(retries_before)
        writer.stop()


class LogWriter(logging.Handler):
    """Formats a record where it is logged, since only there is the request known, and writes the line in a thread.

    Lines that come within a pause are written together. One that cannot be formatted or written breaks nothing: it is
    lost and counted.
    """

    def __init__(self, fd: int, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lost = 0
        """Lines that were lost since the last notice."""
        self._fd = fd
        self._queued_bytes = 0
        self._counters = threading.Lock()
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        # A daemon: a write that hangs must not keep the process.
        self._thread = threading.Thread(target=self._run, name="server log", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Write the remaining lines, within 2 seconds."""
        self._lines.put(None)
        self._thread.join(_CLOSE_SECONDS)

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._line(record)
        except Exception:  # noqa: BLE001  (it is counted as lost)
            line = None
        with self._counters:
            if line is None or self._queued_bytes + len(line) > _MAX_BYTES:
                self.lost += 1
                return
            self._queued_bytes += len(line)
        self._lines.put(line)

    def _line(self, record: logging.LogRecord) -> bytes:
        return self.format(record).encode(errors="backslashreplace") + b"\n"

    def _run(self) -> None:
        running = True
        while running:
            lines = [self._lines.get()]
            time.sleep(_PAUSE_SECONDS)
            while not self._lines.empty():
                lines.append(self._lines.get())
            running = None not in lines
            self._write([line for line in lines if line is not None])

    def _write(self, lines: list[bytes]) -> None:
        if not lines:
            return
        with self._counters:
            lost, self.lost = self.lost, 0
        text = b"".join(lines)
        size = len(text)
        if lost:
            message = "%d lines of the log were lost"
            notice = logging.LogRecord("miner.gateway", logging.WARNING, __file__, 0, message, (lost,), None)
            text = self._line(notice) + text
        try:
            while text:
                text = text[os.write(self._fd, text) :]
            lost = 0
        except OSError:  # full disk, closed pipe: later lines may be written
            lost += len(lines)
        with self._counters:
            self.lost += lost
            self._queued_bytes -= size


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
