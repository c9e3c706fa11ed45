"""The last lines of a child's output, in bounded memory."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_log = logging.getLogger("miner.engine")

SHOWN = 40
"""Lines that errors show."""
LINE = 204
"""Bytes of a log line, on average: longer logs are cut."""


class EngineLog(NamedTuple):
    """The complete lines that are kept of an engine's output."""

    run: int = 0
    """Of which start: each has a log of its own. 0: it was not started yet."""
    first: int = 0
    """How many lines came before them in this run."""
    lines: Sequence[str] = ()

    def since(self, before: EngineLog) -> list[str]:
        """The lines that were not there before."""
        if self.run != before.run:
            return list(self.lines)
        return list(self.lines[max(0, before.first + len(before.lines) - self.first) :])


class LogTail:
    """Keeps the last `max_lines` lines, at most `max_bytes` together; a line longer than `max_line` bytes loses its
    beginning.

    Written by one thread, read by any. Each line is also logged to `miner.engine` at DEBUG.
    """

    def __init__(self, name: str, *, max_lines: int = SHOWN, max_bytes: int = 8192, max_line: int = 8192) -> None:
        self._name = name
        self._max_line = min(max_line, max_bytes)
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._lines: deque[bytes] = deque(maxlen=max_lines)
        self._size = 0
        self._added = 0
        """Lines so far."""
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
                self._open[source] = rest[-self._max_line :]
        self._log(complete)

    def close(self) -> None:
        """End of output: unfinished lines count."""
        with self._lock:
            rests = list(self._open.values())
            for rest in rests:
                self._add(rest)
            self._open.clear()
        self._log(rests)

    def lines(self, most: int = SHOWN) -> list[str]:
        """The last lines, oldest first, as text: so many, of `LINE` bytes on average."""
        with self._lock:
            kept = [*self._lines, *self._open.values()]
        left, shown = most * LINE, deque[str]()
        for line in reversed(kept[-most:]):
            left -= len(line)
            if left < 0 and shown:
                break
            shown.appendleft(line.decode("utf-8", "replace"))
        return list(shown)

    def complete_lines(self, run: int) -> EngineLog:
        """The lines that have an end, as those of that run."""
        with self._lock:
            kept, added = list(self._lines), self._added
        return EngineLog(run, added - len(kept), [line.decode("utf-8", "replace") for line in kept])

    def _log(self, lines: Iterable[bytes]) -> None:
        # Not under the lock: readers must not wait for a log file.
        if _log.isEnabledFor(logging.DEBUG):
            for line in lines:
                if line.strip():
                    _log.debug("%s: %s", self._name, line[-self._max_line :].rstrip().decode("utf-8", "replace"))

    def _add(self, line: bytes) -> None:
        line = line.rstrip()[-self._max_line :]
        if not line:
            return
        if len(self._lines) == self._max_lines:
            self._size -= len(self._lines[0])
        self._lines.append(line)
        self._added += 1
        self._size += len(line)
        while self._size > self._max_bytes:
            self._size -= len(self._lines.popleft())
