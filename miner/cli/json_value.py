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
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise UsageError(f"{flag} {shown}: is nested too deeply.") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UsageError(f"{flag} {shown}: is no JSON: {error.msg[:1].lower()}{error.msg[1:]} at {place}.") from None
    except ValueError as error:
        raise UsageError(f"{flag} {shown}: is no JSON: {error}.") from None


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
