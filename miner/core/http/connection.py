"""One HTTP/1.1 connection to an engine, as an asyncio Protocol: one request at a time, with a timeout on each read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

from miner.core._typing import override
from miner.core.http.http1 import ResponseHead, ResponseParser
from miner.core.http.transport_errors import FramingError, LocallyClosedError, ServerDisconnectedError

_HIGH_WATER = 1024 * 1024
"""Unread bytes above which reading from the socket is paused."""
_UPLOAD_PAUSE: Final = 0.005
"""Seconds between two looks at what is left to be sent."""


class Connection(asyncio.Protocol):
    """Created by the event loop's `create_connection`; belongs to that loop.

    Args:
        read_timeout: seconds that a read may wait for bytes before it raises TimeoutError.
        on_lost: called when the connection is lost.
    """

    transport: asyncio.Transport

    def __init__(
        self, loop: asyncio.AbstractEventLoop, read_timeout: float, on_lost: Callable[[Connection], None]
    ) -> None:
        self._loop = loop
        self._read_timeout = read_timeout
        self._on_lost = on_lost
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._paused = False
        self._eof = False
        self._eof_reason = "the connection was closed"
        self._closed_locally = False
        self._waiter: asyncio.Future[None] | None = None
        self._waiting_since = 0.0
        self._unsent = 0
        self._timer: asyncio.TimerHandle | None = None
        self._response: ResponseParser | None = None
        self._content = b""
        """Content that was received together with the head."""
        self._on_drained: Callable[[Connection], None] | None = None
        self.keep_alive = False
        """Whether the server accepts another request after this response."""
        self.response_started = False
        """Whether a byte of the response was received."""
        self.idle_since = 0.0
        """Loop time, set by the connection pool."""

    # Called by the event loop

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        self._buffer.append(data)
        self._buffered += len(data)
        if self._buffered > _HIGH_WATER and not self._paused:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    @override
    def eof_received(self) -> None:
        self._eof = True
        self._wake()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._eof = True
        if isinstance(exc, OSError) and exc.strerror:
            self._eof_reason = exc.strerror.lower()
        if self._timer is not None:
            self._timer.cancel()
        self._wake()
        self._on_lost(self)
        if self._response is not None and not self._buffer:
            self._response.release_parser()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            if not waiter.done():
                waiter.set_result(None)
        elif self._on_drained is not None:
            self._drain(self._on_drained)

    # Called by the client

    @property
    def usable(self) -> bool:
        """Whether another request can be sent: it is open and no unexpected bytes were received."""
        return not self._eof and not self._buffer and not self.transport.is_closing()

    async def send(self, request: bytes) -> ResponseHead:
        """Send a request and return the head of its response.

        Raises:
            TimeoutError: nothing was received for `read_timeout` seconds.
            ServerDisconnectedError: the connection ended before the head was complete.
            LocallyClosedError: `close` was called.
            FramingError: the response is not HTTP.
        """
        self.response_started = False
        if self._eof or self.transport.is_closing():
            raise self._disconnected()
        self.transport.write(request)
        self._response = response = ResponseParser()
        while response.head is None:
            while not self._buffer:
                if self._eof:
                    raise self._disconnected()
                await self._wait()
            self.response_started = True
            self._content = response.feed(self._take_buffer())
        self.keep_alive = response.head.keep_alive
        return response.head

    async def send_part(self, data: bytes) -> None:
        """Send a part of a request, and wait until most of it has left.

        Raises:
            ServerDisconnectedError: the connection ended.
            LocallyClosedError: `close` was called.
        """
        if self._eof or self.transport.is_closing():
            raise self._disconnected()
        self.transport.write(data)
        while self.transport.get_write_buffer_size() > _HIGH_WATER:
            if self._eof or self.transport.is_closing():
                raise self._disconnected()
            await asyncio.sleep(_UPLOAD_PAUSE)

    async def read(self) -> bytes:
        """Return what was received of the body, at least one byte; b"" at its end.

        Raises:
            TimeoutError: nothing was received for `read_timeout` seconds.
            ServerDisconnectedError: the connection ended before the body was complete.
            LocallyClosedError: `close` was called before that.
            FramingError: the body is malformed.
        """
        response = self._response
        assert response is not None
        if self._content:
            content, self._content = self._content, b""
            return content
        while not response.complete:
            if self._buffer:
                content = response.feed(self._take_buffer())
                if content:
                    return content
            elif response.error is not None:
                raise response.error
            elif self._eof:
                self._feed_eof(response)
            else:
                await self._wait()
        return b""

    def _feed_eof(self, response: ResponseParser) -> None:
        try:
            response.feed_eof()
        except ServerDisconnectedError as error:
            raise self._disconnected() from error
        if self._closed_locally:  # a body that is delimited by the connection's end: not by ours
            raise self._disconnected()

    def _disconnected(self) -> Exception:
        return LocallyClosedError() if self._closed_locally else ServerDisconnectedError(self._eof_reason)

    def response_complete(self) -> bool:
        """Whether the response is complete, with nothing after it; unread bytes count, nothing is awaited.

        Raises:
            FramingError: the body is malformed.
        """
        response = self._response
        if response is None:
            return False
        if self._buffer and not response.complete:
            response.feed(self._take_buffer())
        return response.complete and not response.surplus and not self._buffer

    def drain(self, on_drained: Callable[[Connection], None]) -> None:
        """Wait for the last chunk of a body whose message is complete, then call `on_drained`. If anything else is
        received, or the connection ends, it is aborted.
        """
        self._on_drained = on_drained

    @property
    def draining(self) -> bool:
        """Whether the last chunk of the body is still awaited."""
        return self._on_drained is not None

    def _drain(self, on_drained: Callable[[Connection], None]) -> None:
        try:
            if self.response_complete():
                self._on_drained = None
                on_drained(self)
            elif self._eof or self._buffer or (self._response is not None and self._response.complete):
                self.abort()
        except FramingError:
            self.abort()

    def abort(self) -> None:
        """Close the connection at once, which makes the engine stop generating."""
        self._on_drained = None
        self._eof = True
        self.transport.abort()

    def close(self) -> None:
        """Abort; a pending read raises LocallyClosedError."""
        self._closed_locally = True
        self.abort()
        self._wake()

    # Waiting

    def _take_buffer(self) -> bytes:
        buffer = self._buffer
        data = buffer[0] if len(buffer) == 1 else b"".join(buffer)
        buffer.clear()
        self._buffered = 0
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        return data

    async def _wait(self) -> None:
        """Wait for bytes or the end of the connection."""
        loop = self._loop
        self._waiter = waiter = loop.create_future()
        self._waiting_since = loop.time()
        if self._timer is None:
            # One timer that re-arms itself, rather than a new one for each read.
            self._timer = loop.call_later(self._read_timeout, self._check_timeout)
        try:
            await waiter
        finally:
            self._waiter = None

    def _check_timeout(self) -> None:
        self._timer = None
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        now = self._loop.time()
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent:  # a long request is still being sent
            self._unsent, self._waiting_since = unsent, now
        left = self._waiting_since + self._read_timeout - now
        if left <= 0:
            waiter.set_exception(TimeoutError(f"nothing received for {self._read_timeout:g} s"))
        else:
            self._timer = self._loop.call_later(left, self._check_timeout)
