"""One connection to an engine: a request goes out, its answer is read as it comes, with a bound on each silence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from miner.core._typing import override
from miner.core.http.framing import FramingError
from miner.core.http.http1 import Head, Response, ServerDisconnectedError

__all__ = ["Connection", "LocallyClosedError"]

_HIGH_WATER = 1024 * 1024
"""Bytes that may wait to be read before the engine is asked to wait."""


class LocallyClosedError(Exception):
    """The connection was closed on this side, by whoever owns it."""


class Connection(asyncio.Protocol):
    """Made by the loop's create_connection; belongs to that loop. One exchange at a time.

    Args:
        silence: seconds without a byte, while one is waited for, after which TimeoutError is raised.
        on_end: called when the connection is gone.
    """

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, silence: float, on_end: Callable[[Connection], None]) -> None:
        self._loop = loop
        self._silence = silence
        self._on_end = on_end
        self._arrived: list[bytes] = []
        self._size = 0
        self._paused = False
        self._over = False
        """No more bytes will come."""
        self._why = "the connection was closed"
        self._closed_here = False
        self._waiter: asyncio.Future[None] | None = None
        self._waits_since = 0.0
        self._unsent = 0
        self._timer: asyncio.TimerHandle | None = None
        self._response: Response | None = None
        self._content = b""
        """What came with the head."""
        self._lingers: Callable[[Connection], None] | None = None
        self.keeps = False
        """Whether the server takes another request after this answer."""
        self.answered = False
        """Whether a byte of the answer has come."""
        self.idle_since = 0.0
        """Loop time; for whoever keeps connections."""

    # What the loop calls

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        self._arrived.append(data)
        self._size += len(data)
        if self._size > _HIGH_WATER and not self._paused:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    @override
    def eof_received(self) -> None:
        self._over = True
        self._wake()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._over = True
        if isinstance(exc, OSError) and exc.strerror:
            self._why = exc.strerror.lower()
        if self._timer is not None:
            self._timer.cancel()
        self._wake()
        self._on_end(self)
        if self._response is not None and not self._arrived:
            self._response.drop()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            if not waiter.done():
                waiter.set_result(None)
        elif self._lingers is not None:
            self._read_on()

    # What a client calls

    @property
    def usable(self) -> bool:
        """Whether another request can be sent: nobody has closed it, and nothing unasked has come."""
        return not self._over and not self._arrived and not self.transport.is_closing()

    async def ask(self, request: bytes) -> Head:
        """Send a request and read the head of its answer.

        Raises:
            TimeoutError: silence.
            ServerDisconnectedError: the connection ended before.
            LocallyClosedError: it was closed on this side.
            FramingError: the answer is no HTTP.
        """
        self.answered = False
        if self._over or self.transport.is_closing():
            raise self._broken()
        self.transport.write(request)
        self._response = response = Response()
        while response.head is None:
            while not self._arrived:
                if self._over:
                    raise self._broken()
                await self._wait()
            self.answered = True
            self._content = response.feed(self._take())
        self.keeps = response.head.keeps
        return response.head

    async def read(self) -> bytes:
        """What has arrived of the body, at least one byte; b"" at its end.

        Raises:
            TimeoutError: silence.
            ServerDisconnectedError: the connection ended before the body did.
            LocallyClosedError: it was closed on this side before that.
            FramingError: the body is not in its form.
        """
        response = self._response
        assert response is not None
        if self._content:
            content, self._content = self._content, b""
            return content
        while not response.done:
            if self._arrived:
                content = response.feed(self._take())
                if content:
                    return content
            elif response.fault is not None:
                raise response.fault
            elif self._over:
                self._end_body(response)
            else:
                await self._wait()
        return b""

    def _end_body(self, response: Response) -> None:
        try:
            response.end()
        except ServerDisconnectedError as error:
            raise self._broken() from error
        if self._closed_here:  # a body that ends with its connection has not ended so
            raise self._broken()

    def _broken(self) -> Exception:
        return LocallyClosedError() if self._closed_here else ServerDisconnectedError(self._why)

    @property
    def finished(self) -> bool:
        """Whether the whole answer has come, and nothing else: what lies here unread is looked at, nothing waited for.

        Raises:
            FramingError: the body is not in its form.
        """
        response = self._response
        if response is None:
            return False
        if self._arrived and not response.done:
            response.feed(self._take())
        return response.done and not response.extra and not self._arrived

    def linger(self, then: Callable[[Connection], None]) -> None:
        """The message in the body is over, and only the mark of the body's end is not here yet: `then` is called when
        it has come. If anything else does, or the connection ends, it is dropped.
        """
        self._lingers = then

    @property
    def lingering(self) -> bool:
        """Whether the mark of the body's end is still awaited."""
        return self._lingers is not None

    def _read_on(self) -> None:
        then = self._lingers
        assert then is not None
        try:
            if self.finished:
                self._lingers = None
                then(self)
            elif self._over or self._arrived or (self._response is not None and self._response.done):
                self.abort()
        except FramingError:
            self.abort()

    def abort(self) -> None:
        """End it at once; the engine notices."""
        self._lingers = None
        self._over = True
        self.transport.abort()

    def close(self) -> None:
        """End it; whoever waits for its answer gets LocallyClosedError."""
        self._closed_here = True
        self.abort()
        self._wake()

    # Waiting

    def _take(self) -> bytes:
        arrived = self._arrived
        data = arrived[0] if len(arrived) == 1 else b"".join(arrived)
        arrived.clear()
        self._size = 0
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        return data

    async def _wait(self) -> None:
        """Until bytes come, or the end."""
        loop = self._loop
        self._waiter = waiter = loop.create_future()
        self._waits_since = loop.time()
        if self._timer is None:
            # One timer looks again and again, rather than a new one for each read.
            self._timer = loop.call_later(self._silence, self._look_at_silence)
        try:
            await waiter
        finally:
            self._waiter = None

    def _look_at_silence(self) -> None:
        self._timer = None
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        now = self._loop.time()
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent:  # a long request that is still going out
            self._unsent, self._waits_since = unsent, now
        left = self._waits_since + self._silence - now
        if left <= 0:
            waiter.set_exception(TimeoutError(f"silent for {self._silence:g} s"))
        else:
            self._timer = self._loop.call_later(left, self._look_at_silence)
