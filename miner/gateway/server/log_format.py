"""The formats of the server's log: one line for each record, as text or JSON."""

from __future__ import annotations

import json
import logging
import re
import weakref
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from miner.core._typing import override
from miner.gateway.context import RequestContext

current_request: ContextVar[weakref.ref[RequestContext] | None] = ContextVar("current_request", default=None)
"""The request in whose task a record is logged. Weak: a timer keeps the context that it was set in until its time, even
when it was cancelled, and would keep the request's body with it.
"""

_PLAIN = re.compile(r"[\w.:/@{}+*,\[\]-]+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class _Formatter(logging.Formatter):
    """The parts that both formats share."""

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """The fields besides the message; in records of a request also its id."""
        fields: dict[str, Any] = dict(getattr(record, "fields", None) or {})
        request = current_request.get()
        context = request() if request is not None else None
        if "id" not in fields and context is not None and not context.finished:
            fields["id"] = context.id
        return {name: value for name, value in fields.items() if value is not None}

    def _exception(self, record: logging.LogRecord) -> str | None:
        text = record.exc_text
        if text is None and record.exc_info and record.exc_info[0] is not None:
            text = self.formatException(record.exc_info)
        if record.stack_info:
            text = f"{text}\n{record.stack_info}" if text else record.stack_info
        return text


class JsonFormatter(_Formatter):
    """An object per line: time, level, logger, message, then the fields; `exception` is a traceback."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.entry(record), default=str)

    def entry(self, record: logging.LogRecord) -> dict[str, Any]:
        """The object of a record."""
        entry = {
            "time": _time(record), "level": record.levelname.lower(), "logger": record.name,
            "message": record.getMessage(), **getattr(record, "head", {}), **getattr(record, "details", {}),
            **self._fields(record),
            "exception": self._exception(record),
        }  # fmt: skip
        if entry["exception"] is None:
            del entry["exception"]
        return entry


class TextFormatter(_Formatter):
    """`time LEVEL logger message name=value ...`; values with other characters are quoted as in JSON. The lines
    of a traceback follow, each after `  | `, so that nothing that a client sends can look like a line of its own.
    """

    def __init__(self, *, terminal: bool = False) -> None:
        """
        Args:
            terminal: print what the server says of itself (`announce.py`) for a person, in several lines.
        """
        super().__init__()
        self._terminal = terminal

    @override
    def format(self, record: logging.LogRecord) -> str:
        screen = getattr(record, "screen", None) if self._terminal else None
        if screen is not None:
            return "\n".join(_CONTROL.sub("?", line) for line in str(screen).split("\n"))
        message = _CONTROL.sub(lambda found: repr(found.group())[1:-1], record.getMessage())
        words = [_time(record), record.levelname, record.name, message]
        words += [name if value is True else f"{name}={word(value)}" for name, value in self._fields(record).items()]
        exception = self._exception(record)
        lines = [" ".join(words)]
        if exception:
            lines += [f"  | {_CONTROL.sub('?', line)}" for line in exception.splitlines()]
        return "\n".join(lines)


def _time(record: logging.LogRecord) -> str:
    """UTC in milliseconds, as in ISO 8601."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def word(value: Any) -> str:
    """The value in the form of the text format."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
