"""HTTP/1.1 answers (RFC 9112) as bytes: their head, and the ways a body says where it ends. Pure: no I/O.

An engine's stream is a chunk for each token, so that reading chunks is most of what reading a stream costs.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from miner.core._typing import override
from miner.core.transport.framing import FramingError

__all__ = ["Body", "BrokenOffError", "Chunked", "Head", "Headers", "Sized", "UntilClosed", "body_of", "parse_head"]

MAX_HEAD_BYTES: Final = 64 * 1024
_MAX_CHUNK_LINE = 4096
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [^\r\n]*)?")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")
_BETWEEN_CHUNKS = re.compile(rb"\r\n([0-9A-Fa-f]{1,15})\r\n")


class BrokenOffError(ConnectionError):
    """The connection ended before the answer did."""


class Headers(dict[str, str]):
    """By name, whatever its case. A name that came several times has its values joined by commas."""

    __slots__ = ()

    @override
    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    @override
    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())

    @override
    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
        return super().get(name.lower(), default)


class Head:
    """The first lines of an answer."""

    __slots__ = ("headers", "keeps", "status")

    def __init__(self, status: int, headers: Headers, *, keeps: bool) -> None:
        self.status = status
        self.headers = headers
        self.keeps = keeps
        """Whether the server will take another request on the connection."""


def parse_head(raw: bytes) -> Head:
    """Read a head, without the empty line that ends it.

    Raises:
        FramingError: it is none.
    """
    lines = raw.split(b"\r\n")
    first = _STATUS_LINE.fullmatch(lines[0])
    if first is None:
        raise FramingError(f"not an HTTP/1.1 answer: {lines[0][:80]!r}")
    headers = Headers()
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not name or name[-1:].isspace() or name[:1].isspace() or b"\n" in line or b"\r" in line:
            raise FramingError(f"not an HTTP header: {line[:80]!r}")
        key, text = name.decode("latin-1").lower(), value.strip(b" \t").decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    connection = headers.get("connection") or ""
    return Head(int(first[2]), headers, keeps=first[1] == b"1" and "close" not in connection.lower())


class Body(Protocol):
    """What is inside a body, out of the bytes on the wire."""

    done: bool
    """Its end has come."""
    rest: bytes
    """What came behind its end: nothing, on an orderly connection."""

    def feed(self, data: bytes) -> bytes:
        """The content in these bytes; FramingError if they break the form."""

    def end(self) -> None:
        """The connection has ended; BrokenOffError if the body had not."""


def body_of(head: Head) -> Body:
    """How this answer's body says where it ends.

    Raises:
        FramingError: it says nothing that can be understood.
    """
    coding = head.headers.get("transfer-encoding")
    if coding is not None:
        if coding.lower() != "chunked":
            raise FramingError(f"a body in transfer-encoding {coding[:40]!r}")
        return Chunked()
    if head.status in (204, 304):
        return Sized(0)
    length = head.headers.get("content-length")
    if length is None:
        return UntilClosed()
    if not (length.isascii() and length.isdecimal()) or len(length) > 15:
        raise FramingError(f"a content-length of {length[:40]!r}")
    return Sized(int(length))


class Sized:
    """A body whose length is known."""

    __slots__ = ("_left", "done", "rest")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = not length
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """See Body."""
        if len(data) > self._left:
            data, self.rest = data[: self._left], data[self._left :]
        self._left -= len(data)
        self.done = not self._left
        return data

    def end(self) -> None:
        """See Body."""
        if not self.done:
            raise BrokenOffError(f"the connection was closed with {self._left} bytes to come")


class UntilClosed:
    """A body that ends with its connection."""

    __slots__ = ("done", "rest")

    def __init__(self) -> None:
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """See Body."""
        return data

    def end(self) -> None:
        """See Body."""
        self.done = True


class Chunked:
    """A body in chunks, each with its size before it."""

    __slots__ = ("_held", "_left", "_trailers", "done", "rest")

    def __init__(self) -> None:
        self._held = b""
        """A line that is not complete."""
        self._left = 0
        """Bytes of the running chunk that have not come, with its line end."""
        self._trailers = False
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """See Body."""
        if self._held:
            data, self._held = self._held + data, b""
        out: list[bytes] = []
        at = 0 if self._left or self._trailers else self._whole_chunks(data, out)
        while at < len(data):
            if self._left:
                at = self._go_on(data, at, out)
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                self._held = data[at:]
                if len(self._held) > _MAX_CHUNK_LINE:
                    raise FramingError(f"not the size of a chunk: {self._held[:40]!r}")
                break
            line, at = data[at:end], end + 2
            if self._trailers:
                if not line:
                    self.done, self.rest = True, data[at:]
                    break
                continue  # a trailer, which nobody reads
            size = _CHUNK_SIZE.fullmatch(line)
            if size is None:
                raise FramingError(f"not the size of a chunk: {line[:40]!r}")
            length = int(size[1], 16)
            if length:
                self._left = length + 2
            else:
                self._trailers = True
        return out[0] if len(out) == 1 else b"".join(out)

    def _whole_chunks(self, data: bytes, out: list[bytes]) -> int:
        """The short way: all chunks but the last of a read, in one go. Returns where the long way has to go on."""
        parts = _BETWEEN_CHUNKS.split(b"\r\n" + data)
        sizes, chunks = parts[1:-2:2], parts[2:-2:2]
        lengths = [len(chunk) for chunk in chunks]
        # A chunk may hold what looks like the next one's size: the lengths tell.
        if parts[0] or not chunks or lengths != [int(size, 16) for size in sizes] or 0 in lengths:
            return 0
        out += chunks
        return len(data) - len(parts[-2]) - 2 - len(parts[-1])

    def _go_on(self, data: bytes, at: int, out: list[bytes]) -> int:
        """Take what has come of the running chunk, and its line end."""
        content = min(self._left - 2, len(data) - at)
        if content > 0:
            out.append(data[at : at + content])
            self._left -= content
            at += content
        while self._left in (1, 2) and at < len(data):
            if data[at] != b"\r\n"[2 - self._left]:
                raise FramingError(f"a chunk of another size than it says: {data[at : at + 40]!r}")
            self._left -= 1
            at += 1
        return at

    def end(self) -> None:
        """See Body."""
        if not self.done:
            raise BrokenOffError("the connection was closed")
