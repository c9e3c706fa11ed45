"""HTTP/1.1 responses (RFC 9112) out of bytes, by llhttp (`httptools`), and what an engine's client adds to it. No I/O.

An engine's stream is a chunk for each token, so that reading chunks is most of what reading a stream costs.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, Final

from miner.core._typing import override
from miner.core.http.framing import FramingError

__all__ = ["MAX_BARE_BYTES", "Head", "Headers", "Response", "ServerDisconnectedError"]

MAX_BARE_BYTES: Final = 64 * 1024
"""Bytes without content at most: of a head, of a chunk's extensions, of trailers."""


class ServerDisconnectedError(ConnectionError):
    """The connection ended before the response did."""


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
    """The first lines of a response."""

    __slots__ = ("headers", "keeps", "status")

    def __init__(self, status: int, headers: Headers, *, keeps: bool) -> None:
        self.status = status
        self.headers = headers
        self.keeps = keeps
        """Whether the server will take another request on the connection."""


@functools.cache
def _httptools() -> ModuleType:
    """Imported with the first response: `import miner` is no slower for it."""
    import httptools

    return httptools


class Response:
    """One response, fed with what arrives. The parser calls its `on_...` methods."""

    __slots__ = (
        "_bare", "_content", "_headers", "_parser", "_pieces", "_until_closed",
        "done", "extra", "fault", "head", "on_body",
    )  # fmt: skip

    def __init__(self) -> None:
        self.head: Head | None = None
        """None until it has come; interim ones (1xx) are passed over."""
        self.done = False
        """The end of the body has come."""
        self.extra = False
        """Something came behind its end: nothing does, on an orderly connection."""
        self.fault: FramingError | None = None
        """What was wrong behind the content that was given last: raised with the next bytes, or by who looks here."""
        self._headers = Headers()
        self._until_closed = False
        self._bare = 0
        self._pieces: int | None = None
        """How many pieces of content there were at the end."""
        self._content: list[bytes] = []
        self.on_body = self._content.append
        parser = _httptools().HttpResponseParser(self)
        self._parser: Any = parser
        # Servers that pad sizes of chunks, and proxies that leave a content-length beside the chunks, are understood.
        parser.set_dangerous_leniencies(lenient_chunked_length=True, lenient_spaces_after_chunk_size=True)

    def feed(self, data: bytes) -> bytes:
        """The content in these bytes, in one piece.

        Raises:
            FramingError: they are no HTTP response. Content before the fault is given first.
        """
        parser = self._parser
        if self.fault is not None:
            raise self.fault
        if parser is None:
            self.extra = True
            return b""
        try:
            parser.feed_data(data)
        except (_httptools().HttpParserError, _httptools().HttpParserUpgrade) as error:
            if self.done:
                self.extra = True
            elif self.fault is None:
                where = "an HTTP/1.1 response" if self.head is None else "the body of a response"
                self.fault = FramingError(f"not {where}: {str(error).lower()}: {data[:80]!r}")
        content = self._content
        if self.done:
            self.drop()
            del content[self._pieces :]
        if content:
            joined = content[0] if len(content) == 1 else b"".join(content)
            content.clear()
            self._bare = 0
            return joined
        if self.fault is not None:
            raise self.fault
        self._bare += len(data)
        if self._bare > MAX_BARE_BYTES and not self.done:
            what = "an HTTP/1.1 response" if self.head is None else "the body of a response"
            raise FramingError(f"not {what}: more than {MAX_BARE_BYTES} bytes without content: {data[:80]!r}")
        return b""

    def end(self) -> None:
        """The connection has ended; ServerDisconnectedError if the response had not."""
        if self._until_closed:
            self.done = True
        if not self.done:
            raise ServerDisconnectedError("the connection was closed")

    def drop(self) -> None:
        """Nothing more is fed. The parser and this hold each other, which only the garbage collector would end."""
        self._parser = None

    # What the parser calls

    def on_message_begin(self) -> None:
        self.extra = self.done

    def on_header(self, name: bytes, value: bytes) -> None:
        headers = self._headers
        key, text = name.decode("latin-1").lower(), value.rstrip(b" \t").decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text

    def on_headers_complete(self) -> None:
        if self.done:
            return
        headers, self._headers = self._headers, Headers()
        status, version = self._parser.get_status_code(), self._parser.get_http_version()
        coding = headers.get("transfer-encoding")
        if version not in ("1.1", "1.0") or not 100 <= status <= 599:
            self.fault = FramingError(f"not an HTTP/1.1 response: HTTP/{version} {status}")
        elif status == 101:
            self.fault = FramingError("a response that changes the protocol")
        elif status < 200:
            return
        elif coding is not None and coding.lower() != "chunked":
            self.fault = FramingError(f"a body in transfer-encoding {coding[:40]!r}")
        self._until_closed = coding is None and "content-length" not in headers and status not in (204, 304)
        closes = version == "1.0" or "close" in (headers.get("connection") or "").lower()
        self.head = Head(status, headers, keeps=not closes)

    def on_message_complete(self) -> None:
        if self.head is not None and not self.done:
            self.done = True
            self._pieces = len(self._content)
