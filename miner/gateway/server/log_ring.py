"""LogRing: the last lines of the server's log in memory, for `/admin/logs`. Never prompts, replies or keys."""

from __future__ import annotations

import itertools
import logging
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec

from miner.core._typing import override
from miner.gateway.server.log_format import JsonFormatter

MAX_LINES = 2000
"""Lines that are kept of each kind: up to info, and from warning."""
_MAX_BYTES = 1024 * 1024
"""Bytes that are kept of each kind."""
_MAX_TEXT = 4096
"""Characters of one text."""
_SECRET = re.compile(r"\b(mk-|sk-|hf_)[\w-]{12,}|(?i:(bearer )[\w.~+/=-]{8,})")
_SHORTEST_SECRET = 15
_OVERHEAD = 400
"""Bytes of a line besides its texts."""
_PRIVATE = ("prompt", "reply")
"""Fields that are left out: the log has them only where MINER_SERVE_LOG_PROMPTS is set."""
_ENGINES = "miner.engine"
"""Its debug lines are the output of engines, which is kept apart."""


class LogLine(NamedTuple):
    """One record, as it is sent."""

    number: int
    """Counts up from 1."""
    level: int
    entry: dict[str, Any]
    """time, level, logger, message, and the fields of the record."""
    size: int
    """Bytes that it counts for."""

    @property
    def data(self) -> bytes:
        """JSON, without what looks like a key. Encoded when somebody asks: few do, and each request is logged."""
        return msgspec.json.encode({name: _safe(value) for name, value in self.entry.items()}, enc_hook=str)


class LogRing(logging.Handler):
    """Keeps the last records that the process logs, those from warning apart: many requests do not push them out.

    Written by any thread, read by any.
    """

    def __init__(self) -> None:
        super().__init__()
        self._format = JsonFormatter()
        self._numbers = itertools.count(1)
        self._kept = (_Kept(), _Kept())
        self.last = 0
        """The number of the last line."""

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Keep what is logged while the block lasts; nothing else where it is attached already."""
        root = logging.getLogger()
        if self in root.handlers:
            yield
            return
        root.addHandler(self)
        try:
            yield
        finally:
            root.removeHandler(self)

    @override
    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno <= logging.DEBUG and record.name == _ENGINES:
            return
        try:
            entry, size = self._format.entry(record), _OVERHEAD
            for name in _PRIVATE:
                entry.pop(name, None)
            for name, value in entry.items():
                if isinstance(value, (int, float)):
                    continue
                text = value if isinstance(value, str) else str(value)
                if len(text) > _MAX_TEXT:
                    text = entry[name] = f"{text[:_MAX_TEXT]}..."
                size += len(text)
        except Exception:  # noqa: BLE001  (a record that cannot be formatted is counted as lost by the log's writer)
            return
        # `emit` is called with the handler's lock.
        self.last = next(self._numbers)
        self._kept[record.levelno >= logging.WARNING].add(LogLine(self.last, record.levelno, entry, size))

    def lines(self, *, after: int = 0, level: int = logging.NOTSET, most: int | None = None) -> list[LogLine]:
        """The lines that are kept, oldest first.

        Args:
            after: only those with a greater number.
            level: the lowest.
            most: the last so many.
        """
        assert self.lock is not None
        with self.lock:
            found = [
                line
                for kept in self._kept
                for line in itertools.takewhile(lambda line: line.number > after, reversed(kept.lines))
                if line.level >= level
            ]
        found.sort(key=lambda line: line.number)
        return found if most is None else found[max(0, len(found) - most) :]

    def is_complete(self, after: int) -> bool:
        """Whether all lines after that one are still kept."""
        return all(kept.dropped <= after for kept in self._kept)


class _Kept:
    """Lines within the bounds."""

    def __init__(self) -> None:
        self.lines: deque[LogLine] = deque()
        self.dropped = 0
        """The number of the last line that had to go."""
        self._size = 0

    def add(self, line: LogLine) -> None:
        self.lines.append(line)
        self._size += line.size
        while len(self.lines) > MAX_LINES or (self._size > _MAX_BYTES and len(self.lines) > 1):
            gone = self.lines.popleft()
            self._size -= gone.size
            self.dropped = gone.number


def _safe(value: Any) -> Any:
    """A value without what looks like a key."""
    if not isinstance(value, str) or len(value) < _SHORTEST_SECRET:
        return value
    return _SECRET.sub(lambda found: f"{found[1] or found[2]}***", value)
