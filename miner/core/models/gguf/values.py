"""Reads the values of a GGUF header forward from an untrusted file.

Each count and length is checked against the rest of the file and a fixed maximum before it is used.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from miner.core._typing import override

# Maxima, each well above what published models have.
MAX_HEADER_BYTES = 1 << 28
MAX_STRING_BYTES = 1 << 20
MAX_KEPT_BYTES = 1 << 24
MAX_ARRAY_STRINGS = 1 << 21
MAX_ARRAY_KEPT = 1 << 12
MAX_STRINGS_KEPT = 64
MAX_WHOLE_BYTES = 1 << 26
"""Instead of MAX_KEPT_BYTES for a header that is read with its long arrays."""
BLOCK = 1 << 20

SCALARS: dict[int, struct.Struct] = {
    0: struct.Struct("<B"), 1: struct.Struct("<b"), 2: struct.Struct("<H"), 3: struct.Struct("<h"),
    4: struct.Struct("<I"), 5: struct.Struct("<i"), 6: struct.Struct("<f"), 7: struct.Struct("<?"),
    10: struct.Struct("<Q"), 11: struct.Struct("<q"), 12: struct.Struct("<d"),
}  # fmt: skip
"""Code of a value's type: how it is stored."""
STRING, ARRAY = 8, 9
U32, U64 = SCALARS[4], SCALARS[10]


class GGUFError(ValueError):
    """The file is not a model that can be read. `reason` is one sentence without the path."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(path, reason)
        self.path = os.fspath(path)
        self.reason = reason

    @override
    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Skipped:
    """Length of an array or text that was too long to keep."""

    length: int
    start: int = field(default=0, compare=False)
    end: int = field(default=0, compare=False)
    """An array of texts: where in the file it is."""


Value = str | int | float | bool | list[str] | list[int] | list[float] | list[bool] | Skipped


class HeaderReader:
    """Reads forward through a file in blocks; never beyond its end.

    Args:
        whole: keep long arrays too.
    """

    def __init__(self, file: BinaryIO, path: Path, size: int, *, whole: bool = False) -> None:
        self._file = file
        self._path = path
        self._buffer = b""
        self._at = 0
        self._limit = self._left = min(size, MAX_HEADER_BYTES)
        self._kept = 0
        self._strings = 0
        self._most_kept = MAX_WHOLE_BYTES if whole else MAX_KEPT_BYTES
        self._longest_texts = MAX_ARRAY_STRINGS if whole else MAX_STRINGS_KEPT
        self._longest_array = MAX_ARRAY_STRINGS if whole else MAX_ARRAY_KEPT

    def fail(self, reason: str) -> GGUFError:
        """The error to raise for `reason`."""
        return GGUFError(self._path, reason)

    @property
    def position(self) -> int:
        """Bytes from the beginning of the file to here."""
        return self._limit - self.remaining

    @property
    def remaining(self) -> int:
        """Bytes from here to the end of the file, or to the most that a header may have."""
        return self._left + len(self._buffer) - self._at

    def take(self, count: int) -> bytes:
        """The next `count` bytes; the caller has bounded `count`."""
        self._need(count)
        self._at += count
        return self._buffer[self._at - count : self._at]

    def scalar(self, form: struct.Struct) -> int | float | bool:
        """One number."""
        value: int | float | bool = form.unpack(self.take(form.size))[0]
        return value

    def u32(self) -> int:
        """An unsigned number of 32 bits."""
        return int(self.scalar(U32))

    def u64(self) -> int:
        """An unsigned number of 64 bits."""
        return int(self.scalar(U64))

    def string(self, what: str, limit: int = MAX_STRING_BYTES) -> str:
        """A text of at most `limit` bytes; `what` names it in the error."""
        length = self._length(what)
        if length > limit:
            raise self.fail(f"{what} has {length} bytes; at most {limit} are possible")
        return self._text(length)

    def value(self, kind: int, key: str) -> Value:
        """A value of the type `kind`; long texts and arrays are skipped and leave their length."""
        if kind == STRING:
            length = self._length(f"the value of {key!r}")
            if length <= MAX_STRING_BYTES:
                return self._text(length)
            self._skip(length)
            return Skipped(length)
        if kind == ARRAY:
            return self._array(key)
        if kind not in SCALARS:
            raise self.fail(f"{key!r} has the unknown value type {kind}")
        return self.scalar(SCALARS[kind])

    def _length(self, what: str) -> int:
        length = self.u64()
        if length > self.remaining:
            raise self.fail(f"{what} claims {length} bytes, more than the file has")
        return length

    def _text(self, length: int) -> str:
        self._keep(length + 64)
        return self.take(length).decode("utf-8", "replace")

    def _keep(self, count: int) -> None:
        self._kept += count
        if self._kept > self._most_kept:
            raise self.fail(f"the header has more than {self._most_kept} bytes of values")

    def _array(self, key: str) -> Value:
        kind, count = self.u32(), self.u64()
        if kind == STRING:
            self._strings += count
            if count * U64.size > self.remaining or self._strings > MAX_ARRAY_STRINGS:
                raise self.fail(f"{key!r} claims {count} texts, more than the file has or a model needs")
            if count <= self._longest_texts:
                return [self.string(f"a text of {key!r}") for _ in range(count)]
            start = self.position
            self._skip_strings(count, key)
            return Skipped(count, start, self.position)
        if kind not in SCALARS:
            raise self.fail(f"{key!r} is an array of the unknown type {kind}")
        form = SCALARS[kind]
        if count * form.size > self.remaining:
            raise self.fail(f"{key!r} claims {count} values, more than the file has")
        if count > self._longest_array:
            self._skip(count * form.size)
            return Skipped(count)
        self._keep(count * 40)
        return list(struct.unpack(f"<{count}{form.format[-1]}", self.take(count * form.size)))

    def _skip_strings(self, count: int, key: str) -> None:
        # A vocabulary has a hundred thousand entries and more: one unpack for each and nothing else.
        unpack = U64.unpack_from
        while count:
            self._need(U64.size)
            buffer, at = self._buffer, self._at
            last = len(buffer) - U64.size
            while count and at <= last:
                at += U64.size + unpack(buffer, at)[0]
                count -= 1
            self._at = min(at, len(buffer))
            if at > len(buffer):
                if at - len(buffer) > self._left:
                    raise self.fail(f"a text of {key!r} is longer than the file")
                self._skip(at - len(buffer))

    def _skip(self, count: int) -> None:
        inside = min(count, len(self._buffer) - self._at)
        self._at += inside
        if count > inside:
            self._file.seek(count - inside, os.SEEK_CUR)
            self._left -= count - inside

    def _need(self, count: int) -> None:
        have = len(self._buffer) - self._at
        if have >= count:
            return
        if count - have > self._left:
            raise self.fail("the file ends in the middle of its header")
        more = self._file.read(min(max(count - have, BLOCK), self._left))
        self._left -= len(more)
        if len(more) < count - have:
            raise self.fail("the file became shorter while it was read")
        self._buffer = self._buffer[self._at :] + more
        self._at = 0
