"""HTTP/1.1 responses (RFC 9112), parsed by llhttp (`httptools`), with the limits and checks of a client. No I/O.

An engine sends one chunk for each token, so parsing chunks is most of the cost of reading a stream.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, Final, NamedTuple

from miner.core._typing import override
from miner.core.http.transport_errors import FramingError, ServerDisconnectedError

MAX_OVERHEAD_BYTES: Final = 64 * 1024
"""Bytes without content at most: of a head, of chunk extensions, of trailers."""


class Headers(dict[str, str]):
    """Case-insensitive. The values of a repeated name are joined by commas."""

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


class ResponseHead(NamedTuple):
    """Status and headers of a response."""

    status: int
    headers: Headers
    keep_alive: bool
    """Whether the server accepts another request on the connection."""


@functools.cache
def _httptools() -> ModuleType:
    """Imported with the first response, so that `import miner` stays fast."""
    import httptools

    return httptools


class ResponseParser:
    """Parses one response. llhttp calls its `on_...` methods."""

    __slots__ = (
        "_content", "_headers", "_overhead", "_parser", "_pieces", "_until_close",
        "complete", "error", "head", "on_body", "surplus",
    )  # fmt: skip

    def __init__(self) -> None:
        self.head: ResponseHead | None = None
        """Status and headers; None until complete. Interim responses (1xx) are skipped."""
        self.complete = False
        """Whether the end of the body was received."""
        self.surplus = False
        """Whether bytes followed the end of the body: the connection cannot be used again."""
        self.error: FramingError | None = None
        """The error after the content that was returned last; the next `feed` raises it."""
        self._headers = Headers()
        self._until_close = False
        self._overhead = 0
        self._pieces: int | None = None
        """Number of pieces of content at the end of the body."""
        self._content: list[bytes] = []
        self.on_body = self._content.append
        parser = _httptools().HttpResponseParser(self)
        self._parser: Any = parser
        # Some servers pad chunk sizes, and some proxies leave a content-length beside the chunks.
        parser.set_dangerous_leniencies(lenient_chunked_length=True, lenient_spaces_after_chunk_size=True)

    def feed(self, data: bytes) -> bytes:
        """Parse received bytes and return the content in them.

        Raises:
            FramingError: they are not HTTP. Content before the error is returned first.
        """
        parser = self._parser
        if self.error is not None:
            raise self.error
        if parser is None:
            self.surplus = True
            return b""
        try:
            parser.feed_data(data)
        except (_httptools().HttpParserError, _httptools().HttpParserUpgrade) as error:
            if self.complete:
                self.surplus = True
            elif self.error is None:
                self.error = self._invalid(str(error).lower(), data)
        content = self._content
        if self.complete:
            self.release_parser()
            del content[self._pieces :]
        if content:
            joined = content[0] if len(content) == 1 else b"".join(content)
            content.clear()
            self._overhead = 0
            return joined
        if self.error is not None:
            raise self.error
        self._overhead += len(data)
        if self._overhead > MAX_OVERHEAD_BYTES and not self.complete:
            raise self._invalid(f"more than {MAX_OVERHEAD_BYTES} bytes without content", data)
        return b""

    def _invalid(self, reason: str, data: bytes) -> FramingError:
        part = "HTTP/1.1 response" if self.head is None else "response body"
        return FramingError(f"invalid {part}: {reason}: {data[:80]!r}")

    def feed_eof(self) -> None:
        """The connection has ended. Raises ServerDisconnectedError if the response was not complete."""
        if self._until_close:
            self.complete = True
        if not self.complete:
            raise ServerDisconnectedError("the connection was closed")

    def release_parser(self) -> None:
        """Break the reference cycle with the parser, which otherwise only the garbage collector would."""
        self._parser = None

    # Called by llhttp

    def on_message_begin(self) -> None:
        """A response begins; after a complete one it is surplus."""
        self.surplus = self.complete

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header; values of repeated ones are joined."""
        headers = self._headers
        key, text = name.decode("latin-1").lower(), value.rstrip(b" \t").decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text

    def on_headers_complete(self) -> None:
        """Check the head, and how the body ends."""
        if self.complete:
            return
        headers, self._headers = self._headers, Headers()
        status, version = self._parser.get_status_code(), self._parser.get_http_version()
        encoding = headers.get("transfer-encoding")
        if version not in ("1.1", "1.0") or not 100 <= status <= 599:
            self.error = FramingError(f"invalid HTTP/1.1 response: HTTP/{version} {status}")
        elif status == 101:
            self.error = FramingError("unexpected protocol switch (HTTP 101)")
        elif status < 200:
            return
        elif encoding is not None and encoding.lower() != "chunked":
            self.error = FramingError(f"unsupported transfer-encoding {encoding[:40]!r}")
        self._until_close = encoding is None and "content-length" not in headers and status not in (204, 304)
        closes = version == "1.0" or "close" in (headers.get("connection") or "").lower()
        self.head = ResponseHead(status, headers, keep_alive=not closes)

    def on_message_complete(self) -> None:
        """The body is complete."""
        if self.head is not None and not self.complete:
            self.complete = True
            self._pieces = len(self._content)
