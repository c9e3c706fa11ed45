"""The lines of a TOML text: where each table, key and element stands.

The text is one that tomllib has accepted, or its beginning: this only follows its structure, and checks nothing.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterator

KeyPath = tuple[str | int, ...]
"""The way to a value: keys of tables, positions in arrays from 0 on."""

MAX_DEPTH = 64
"""Arrays and tables inside each other, and parts of a key."""
_TOO_DEEP = f"more than {MAX_DEPTH} arrays and tables inside each other"
_BLANK = re.compile(r"[ \t]*")
_SPACE = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_BARE = re.compile(r"[^\s=.\[\]{},\"'#]*")
_BASIC = re.compile(r'"(?:[^"\\\n]|\\.)*"?')
_LITERAL = re.compile(r"'[^'\n]*'?")
_LONG_BASIC = re.compile(r'"""(?:[^"\\]|\\.|"(?!"")|""(?!"))*(?:"{3,5})?', re.DOTALL)
_LONG_LITERAL = re.compile(r"'''(?:[^']|'(?!'')|''(?!'))*(?:'{3,5})?", re.DOTALL)
_SCALAR = re.compile(r"[^,\]}\n#]*")


class TooDeepError(ValueError):
    """More than MAX_DEPTH arrays and inline tables inside each other."""


class Lines:
    """The lines of one text; the first one is 1."""

    def __init__(self, text: str = "") -> None:
        """Raises TooDeepError."""
        scan = _Scan(text)
        self.events = list(scan.run())
        """What stands where, in the order of the text: the path of each key and header, and its line."""
        self._lines = dict(reversed(self.events))
        # A header says more than the headers and keys below that imply the same table.
        self._lines.update(reversed(scan.headers))
        for path, line in self.events:
            for length in range(1, len(path)):
                self._lines.setdefault(path[:length], line)

    def __contains__(self, path: KeyPath) -> bool:
        return path in self._lines

    def paths(self) -> set[KeyPath]:
        """All paths of the text."""
        return set(self._lines)

    def line(self, path: KeyPath) -> int:
        """The line of a key, header or element; of the nearest table around one that does not stand in the text; 1
        where there is none.
        """
        return next((self._lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self._lines), 1)


class _Scan:
    """One pass over a text. Each step ends behind what it read, or at the end of the text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._arrays: dict[KeyPath, int] = {}
        """Number of elements of each array of tables so far."""
        self.headers: list[tuple[KeyPath, int]] = []

    def run(self) -> Iterator[tuple[KeyPath, int]]:
        table: KeyPath = ()
        while True:
            self._skip(_SPACE)
            if self._at >= len(self._text):
                return
            before = self._at
            if self._text[self._at] == "[":
                table = self._header()
                yield self.headers[-1]
            else:
                yield from self._pair(table, 0)
            self._move_on(before)

    def _line(self) -> int:
        return bisect_right(self._starts, self._at)

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match[0]

    def _next_is(self, sign: str) -> bool:
        if not self._text.startswith(sign, self._at):
            return False
        self._at += len(sign)
        return True

    def _header(self) -> KeyPath:
        line = self._line()
        many = self._next_is("[[") or not self._next_is("[")
        *parents, last = self._key()
        while self._next_is("]"):
            pass
        path: KeyPath = ()
        for part in parents:
            path = self._element((*path, part))
        path = (*path, last)
        if many:
            if path not in self._arrays:
                self.headers.append((path, line))
            self._arrays[path] = self._arrays.get(path, 0) + 1
        path = self._element(path)
        self.headers.append((path, line))
        return path

    def _element(self, path: KeyPath) -> KeyPath:
        """The last element of an array of tables; any other path as it is."""
        count = self._arrays.get(path)
        return path if count is None else (*path, count - 1)

    def _key(self) -> list[str]:
        """A key with all its parts."""
        parts = []
        while True:
            self._skip(_BLANK)
            parts.append(self._key_part())
            self._skip(_BLANK)
            if not self._next_is("."):
                return parts
            if len(parts) > MAX_DEPTH:
                raise TooDeepError(_TOO_DEEP)

    def _key_part(self) -> str:
        sign = self._text[self._at : self._at + 1]
        if sign not in ('"', "'") or not sign:
            return self._skip(_BARE)
        quoted = self._skip(_BASIC if sign == '"' else _LITERAL)
        try:
            # Alone, it is read as the key that it is; escapes are TOML's, not Python's.
            return next(iter(tomllib.loads(f"{quoted} = 0")))
        except ValueError:
            return quoted

    def _pair(self, table: KeyPath, depth: int) -> Iterator[tuple[KeyPath, int]]:
        line = self._line()
        path = (*table, *self._key())
        yield path, line
        self._skip(_BLANK)
        self._next_is("=")
        self._skip(_BLANK)
        yield from self._value(path, depth)

    def _value(self, path: KeyPath, depth: int) -> Iterator[tuple[KeyPath, int]]:
        if depth > MAX_DEPTH:
            raise TooDeepError(_TOO_DEEP)
        for start, pattern in (
            ('"""', _LONG_BASIC), ("'''", _LONG_LITERAL), ('"', _BASIC), ("'", _LITERAL),
        ):  # fmt: skip
            if self._text.startswith(start, self._at):
                self._skip(pattern)
                return
        if self._next_is("["):
            yield from self._array(path, depth)
        elif self._next_is("{"):
            yield from self._inline_table(path, depth)
        else:
            self._skip(_SCALAR)

    def _array(self, path: KeyPath, depth: int) -> Iterator[tuple[KeyPath, int]]:
        number = 0
        while self._more("]"):
            element, before = (*path, number), self._at
            yield element, self._line()
            yield from self._value(element, depth + 1)
            self._move_on(before)
            number += 1

    def _inline_table(self, path: KeyPath, depth: int) -> Iterator[tuple[KeyPath, int]]:
        while self._more("}"):
            before = self._at
            yield from self._pair(path, depth + 1)
            self._move_on(before)

    def _more(self, end: str) -> bool:
        """Whether another element follows, which begins here."""
        self._skip(_SPACE)
        self._next_is(",")
        self._skip(_SPACE)
        return not self._next_is(end) and self._at < len(self._text)

    def _move_on(self, before: int) -> None:
        """Never stand still, whatever the text."""
        self._at += self._at == before
