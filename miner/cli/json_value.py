"""A JSON value as an argument: written out, or in a file."""

from __future__ import annotations

import json
from typing import Any

from miner.cli.parser import UsageError
from miner.cli.standard_input import read_file

_SHOWN = 40


def json_value(argument: str, flag: str) -> Any:
    """The JSON value of an argument that begins with `{` or `[`, else of the file that it names.

    Raises:
        UsageError: it cannot be read, or is no JSON; with line and column.
    """
    written_out = argument.lstrip()[:1] in ("{", "[")
    text = argument if written_out else read_file(argument, flag)
    shown = repr(argument if len(argument) <= _SHOWN else f"{argument[: _SHOWN - 3]}...")
    try:
        return loads(text)
    except TooDeepError:
        raise UsageError(f"{flag} {shown}: is nested too deeply.") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UsageError(f"{flag} {shown}: is no JSON: {error.msg[:1].lower()}{error.msg[1:]} at {place}.") from None
    except ValueError as error:
        raise UsageError(f"{flag} {shown}: is no JSON: {error}.") from None


class TooDeepError(ValueError):
    """JSON is nested more deeply than it can be read."""


def loads(text: str | bytes) -> Any:
    """The value of JSON text that anybody may have written.

    Raises:
        ValueError: it is no JSON, nested too deeply, or has half a character, which no request can carry.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise TooDeepError("it is nested too deeply") from None
    escape = b"\\u" if isinstance(text, bytes) else "\\u"
    if escape in text:  # type: ignore[operator]
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it has half of a surrogate pair") from None
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
