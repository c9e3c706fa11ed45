"""The last lines of a child's output, in bounded memory."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable

_log = logging.getLogger("miner.engine")

SHOWN = 40
"""Lines that errors show."""


class LogTail:
    """Keeps the last `max_lines` lines, at most `max_bytes` together; a longer line loses its beginning.

    Written by one thread, read by any. Each line is also logged to `miner.engine` at DEBUG.
    """

    def __init__(self, name: str, *, max_lines: int = SHOWN, max_bytes: int = 8192) -> None:
        self._name = name
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._lines: deque[bytes] = deque(maxlen=max_lines)
        self._size = 0
        self._open: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def feed(self, data: bytes, source: str = "stderr") -> None:
        """Add output; `source` keeps unfinished lines of two pipes apart."""
        if len(data) > self._max_bytes and not _log.isEnabledFor(logging.DEBUG):
            data = data[-self._max_bytes :]  # the rest would not be kept
        with self._lock:
            *complete, rest = (self._open.pop(source, b"") + data).split(b"\n")
            for line in complete:
                self._add(line)
            if rest:
                self._open[source] = rest[-self._max_bytes :]
        self._log(complete)

    def close(self) -> None:
        """End of output: unfinished lines count."""
        with self._lock:
            rests = list(self._open.values())
            for rest in rests:
                self._add(rest)
            self._open.clear()
        self._log(rests)

    def lines(self) -> list[str]:
        """The last lines, oldest first, as text."""
        with self._lock:
            kept = [*self._lines, *self._open.values()]
        return [line.decode("utf-8", "replace") for line in kept]

    def _log(self, lines: Iterable[bytes]) -> None:
        # Not under the lock: readers must not wait for a log file.
        if _log.isEnabledFor(logging.DEBUG):
            for line in lines:
                if line.strip():
                    _log.debug("%s: %s", self._name, line[-self._max_bytes :].rstrip().decode("utf-8", "replace"))

    def _add(self, line: bytes) -> None:
        line = line.rstrip()[-self._max_bytes :]
        if not line:
            return
        if len(self._lines) == self._max_lines:
            self._size -= len(self._lines[0])
        self._lines.append(line)
        self._size += len(line)
        while self._size > self._max_bytes:
            self._size -= len(self._lines.popleft())
