"""Limits on the structure of a request body: 31 MB can be one string, or ten million objects.

`check_structure` runs before decoding: decoding makes a Python object of each value and cannot be interrupted, so what
would take the event loop's time, or a gigabyte, is refused first. Single-byte searches over a slice run at gigabytes a
second. The other limits apply to decoded values, which validators and templates walk recursively.
"""

from __future__ import annotations

from collections.abc import Iterable, Sized
from typing import Any

from miner.errors import InvalidRequestError

MAX_VALUES = 200_000
"""Values of a body: strings, numbers, objects, arrays, nested ones included. A prompt may be a list of token ids."""
MAX_ESCAPES = 4_000_000
"""Backslashes: each costs as much as a hundred plain characters."""
MAX_SPACE = 4_000_000
"""Bytes between and around the values: spaces, line breaks, digits."""
MAX_DEPTH = 64
"""Levels of nesting in the free-form parts of a body: schemas, tools, metadata."""
MAX_NODES = 20_000
"""Values in a free-form part of a body."""
MAX_SCHEMA = 10_000
"""Values in one JSON Schema: with a type each, the 5000 properties that OpenAI takes."""
MAX_MESSAGES = 5_000
_SLICE = 1 << 20


def check_structure(raw: bytes) -> None:
    """Check that a body can be decoded quickly.

    Raises:
        InvalidRequestError: it holds more than MAX_VALUES, MAX_ESCAPES or MAX_SPACE.
    """
    first = raw[:64].lstrip()[:1]
    # Each value takes at least one byte, and what is no object is refused by the decoder at its first byte.
    if len(raw) > MAX_VALUES and first in (b"{", b""):
        _Count().add(raw)


def check_arguments(calls: Iterable[str], where: str) -> None:
    """Apply the same limits to the arguments of tool calls in a conversation: they are JSON within the body's strings,
    and are decoded too.

    Raises:
        InvalidRequestError: names the field that holds the conversation.
    """
    texts = list(calls)
    if sum(map(len, texts)) <= MAX_VALUES:
        return
    count = _Count()
    try:
        for text in texts:
            count.add(text.encode(errors="surrogatepass"))
    except InvalidRequestError as error:
        raise InvalidRequestError(
            f"{where}: the arguments of its tool calls are too large. {error}", param=where
        ) from None


def check_length(items: Sized | None, name: str, most: int = MAX_MESSAGES) -> None:
    """Check the length of a list.

    Raises:
        InvalidRequestError: names the field, with both numbers.
    """
    if items is not None and len(items) > most:
        raise InvalidRequestError(f"{name} holds {len(items)} items; the maximum is {most}.", param=name)


def bounded(value: Any, name: str, most: int = MAX_NODES) -> Any:
    """Return the same value, if it is neither too deep nor too large.

    Raises:
        InvalidRequestError: names the field and the limit.
    """
    level, depth, nodes = [value], 0, 0
    while level:
        depth += 1
        nodes += len(level)
        if depth > MAX_DEPTH:
            raise InvalidRequestError(f"{name} is nested more than {MAX_DEPTH} levels deep.", param=name)
        if nodes > most:
            raise InvalidRequestError(f"{name} holds more than {most} values.", param=name)
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        level = below
    return value


class _Count:
    """Values, escapes and whitespace found so far."""

    def __init__(self) -> None:
        self._values = self._escapes = self._space = 0

    def add(self, raw: bytes) -> None:
        """Count one JSON text, slice by slice."""
        quotes = 0
        in_text = escaped = False
        for start in range(0, len(raw), _SLICE):
            piece = raw[start : start + _SLICE]
            if escaped:
                piece = piece[1:]
            # Pairs of backslashes first, then escaped quotes: what quotes are left begin or end a string.
            escaped = (len(piece) - len(piece.rstrip(b"\\"))) % 2 == 1
            backslashes = piece.count(b"\\")
            if backslashes:
                self._escapes += backslashes
                piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
            quotes += piece.count(b'"')
            if quotes > 4 * MAX_VALUES:  # a key and a string for each value at most
                self._values = MAX_VALUES + 1
            else:
                parts = piece.split(b'"')
                between = b"".join(parts[in_text::2])
                in_text ^= len(parts) % 2 == 0
                self._values += len(between) - len(between.translate(None, b"{[,"))
                self._space += len(between)
            self._check()

    def _check(self) -> None:
        for count, most, what in (
            (self._values, MAX_VALUES, "values"), (self._escapes, MAX_ESCAPES, "escaped characters"),
            (self._space, MAX_SPACE, "characters outside of strings"),
        ):  # fmt: skip
            if count > most:
                raise InvalidRequestError(f"The request body holds more than {most} {what}.")
