"""How much a JSON body holds, told without decoding it: a body of 31 MB can be one text, or ten million objects.

Decoding makes a Python object of each value and cannot be interrupted. So what would take the event loop's time, or a
gigabyte, is refused before. Single-byte searches over a slice run at gigabytes a second.
"""

from __future__ import annotations

from collections.abc import Iterable

from miner.errors import InvalidRequestError

__all__ = ["MAX_ESCAPES", "MAX_SPACE", "MAX_VALUES", "check_arguments", "check_structure"]

MAX_VALUES = 200_000
"""Values of a body: texts, numbers, objects, lists, those within included. A prompt may be a list of token ids."""
MAX_ESCAPES = 4_000_000
"""Backslashes: each costs what a hundred plain letters cost."""
MAX_SPACE = 4_000_000
"""Bytes between and around the values: spaces, line breaks, digits."""
_SLICE = 1 << 20


def check_structure(raw: bytes) -> None:
    """Make sure that a body is quickly decoded.

    Raises:
        InvalidRequestError: it holds more than is ever needed.
    """
    first = raw[:64].lstrip()[:1]
    # Each value has a byte of its own, and what is no object is refused by the decoder at its first byte.
    if len(raw) > MAX_VALUES and first in (b"{", b""):
        _Count().add(raw)


def check_arguments(calls: Iterable[str], where: str) -> None:
    """The same for calls of tools that a conversation holds: their arguments are JSON within the body's texts, and are
    decoded too.

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
        raise InvalidRequestError(f"{where}: the arguments of its calls are too much. {error}", param=where) from None


class _Count:
    """What was found so far."""

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
            # Pairs of backslashes first, then escaped quotes: what quotes are left begin or end a text.
            escaped = (len(piece) - len(piece.rstrip(b"\\"))) % 2 == 1
            backslashes = piece.count(b"\\")
            if backslashes:
                self._escapes += backslashes
                piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
            quotes += piece.count(b'"')
            if quotes > 4 * MAX_VALUES:  # a key and a text for each value at most
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
            (self._space, MAX_SPACE, "characters outside of texts"),
        ):  # fmt: skip
            if count > most:
                raise InvalidRequestError(f"The body holds more than {most} {what}.")
