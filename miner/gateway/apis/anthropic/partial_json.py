"""What is complete of a JSON object that was cut short."""

from __future__ import annotations

from typing import Any

import msgspec

_CLOSES = {"{": "}", "[": "]"}


def complete_members(text: str) -> dict[str, Any]:
    """The object, without the value in which the text ends; `{}` for text that begins no object."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        value = _decoded_prefix(text)
    return value if isinstance(value, dict) else {}


def _decoded_prefix(text: str) -> Any:
    open_brackets: list[str] = []
    cut, closing = 0, ""
    """Where the last complete value ends, and what closes the brackets that are open there."""
    in_string = escaped = False
    for place, character in enumerate(text):
        if in_string:
            in_string = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            in_string = True
        elif character in "{[":
            open_brackets.append(_CLOSES[character])
            cut, closing = place + 1, "".join(reversed(open_brackets))
        elif character in "}]" and open_brackets:
            open_brackets.pop()
            cut, closing = place + 1, "".join(reversed(open_brackets))
        elif character == ",":
            cut, closing = place, "".join(reversed(open_brackets))
    try:
        return msgspec.json.decode(text[:cut] + closing)
    except (msgspec.DecodeError, RecursionError):
        return None
