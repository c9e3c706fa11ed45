"""The HTTP client towards an engine: kept connections, bounded waits, JSON calls and byte streams.

Our own, since this is the way of every token: a stream through it costs about half of what it does through aiohttp's
client (bench/README.md). It does what an engine's API needs and no more: no redirects, cookies, proxies, compression.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from miner.core.transport.address import Address, connect
from miner.core.transport.connection import Connection
from miner.core.transport.faults import Origin, faults
from miner.core.transport.framing import FramingError
from miner.core.transport.http1 import BrokenOffError
from miner.core.transport.redirect import redirected

__all__ = ["ByteStream", "HttpClient", "Reply"]

_KEEPALIVE_SECONDS = 4.0
"""vLLM and llama.cpp close an idle connection after 5 s: we let go of it before."""
_LINGER_SECONDS = 1.0
"""How long the mark of a body's end may come after the message's own."""
_MAX_BODY_BYTES = 256 * 1024 * 1024


class Reply(NamedTuple):
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class ByteStream:
    """An answer that is read as it comes."""

    __slots__ = ("_connection", "headers", "over", "read_some", "status")

    def __init__(self, connection: Connection, status: int, headers: Mapping[str, str]) -> None:
        self._connection = connection
        self.status = status
        self.headers = headers
        self.over = False
        """Set by who reads, when the message itself has said that it is over: only then the connection may be kept
        although the mark of the body's end has not come yet.
        """
        self.read_some = connection.read
        """What has arrived, at least one byte; b"" at the end."""

    async def read_all(self) -> bytes:
        """The rest, which must not be without end."""
        read = self.read_some
        parts = [await read()]
        size = len(parts[0])
        while part := await read():
            parts.append(part)
            size += len(part)
            if size > _MAX_BODY_BYTES:
                raise FramingError(f"an answer of more than {_MAX_BODY_BYTES} bytes")
        return parts[0] if len(parts) == 1 else b"".join(parts)


class HttpClient:
    """Speaks to one engine. Connects on first use and again on another event loop; `close` is idempotent.

    Args:
        origin: names backend and address in errors; `origin.silence` bounds each wait for bytes, in seconds.
        api_key: sent as a bearer token.
        unix_socket: where the engine listens, in place of the address's host and port.
        reuse: keep connections for the next request. llama.cpp's server closes a connection after a stream from it
            although it announces otherwise (protocol notes, pitfall 21), so there it is off.
    """

    def __init__(
        self, origin: Origin, *, api_key: str | None = None, unix_socket: Path | None = None, reuse: bool = True
    ) -> None:
        self.origin = origin
        self._api_key = api_key
        self._unix_socket = unix_socket
        self._reuse = reuse and unix_socket is None
        self._address: Address | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = os.getpid()
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._guard: AsyncGenerator[None, None] | None = None

    async def request(
        self, method: str, path: str, body: bytes | None = None, *, total: float | None = None, root: bool = False
    ) -> Reply:
        """Send a request and read the whole answer, whatever its status.

        Args:
            total: seconds for the whole exchange, where it must be short.
            root: the path begins at the server's root, before the `/v1` of the address.
        """
        with faults(self.origin, total=total) as state:
            if total is None:
                return await self._whole(state, method, path, body, root)
            async with asyncio.timeout(total):
                return await self._whole(state, method, path, body, root)

    async def _whole(self, state: faults, method: str, path: str, body: bytes | None, root: bool) -> Reply:
        connection, answer = await self._ask(method, path, body, root)
        try:
            state.receiving = True
            return Reply(answer.status, answer.headers, await answer.read_all())
        finally:
            self._release(connection)

    def stream(self, path: str, body: bytes) -> _Streaming:
        """POST and read the answer as it comes, in an `async with` block that gives a ByteStream. Leaving the block
        early closes the connection, which is what makes an engine stop; errors raised inside the block are mapped too.
        """
        return _Streaming(self, path, body)

    async def _ask(self, method: str, path: str, body: bytes | None, root: bool) -> tuple[Connection, ByteStream]:
        """The answer, of which the head has come. The caller releases the connection."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._begin_on(loop)
        address = self._address
        if address is None:
            address = self._address = Address.of(self.origin.base_url, self._api_key, keep=self._reuse)
        request = address.request(method, path, body, root=root)
        connection = self._take_idle(loop.time()) if self._idle else None
        while True:
            fresh = connection is None
            if connection is None:
                connection = await self._connect(loop, address)
            try:
                head = await connection.ask(request)
            except BrokenOffError:
                connection.abort()
                # A kept connection that the server has just closed: once more on a fresh one, since not a byte of an
                # answer has come. On a new connection it means something else: the request may have killed the engine.
                if fresh or connection.answered:
                    raise
                connection = None
            except BaseException:
                connection.abort()
                raise
            else:
                if 300 <= head.status < 400:
                    connection.abort()
                    raise redirected(head.status, head.headers.get("location"), self.origin)
                return connection, ByteStream(connection, head.status, head.headers)

    # Connections

    async def _connect(self, loop: asyncio.AbstractEventLoop, address: Address) -> Connection:
        if self._guard is None:
            self._guard = _closed_with_the_loop(self)
            await anext(self._guard)
        silence, ended = self.origin.silence, self._open.discard
        connection = await connect(loop, address, self._unix_socket, lambda: Connection(loop, silence, ended))
        self._open.add(connection)
        return connection

    def _take_idle(self, now: float) -> Connection | None:
        """The connection that was used last, if it still serves."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and now - connection.idle_since < _KEEPALIVE_SECONDS:
                return connection
            connection.abort()
        return None

    def _release(self, connection: Connection, *, message_over: bool = False) -> None:
        """After an answer, or in the middle of one that nobody wants any more."""
        try:
            finished = connection.finished
        except FramingError:
            finished = False
        if finished:
            self._keep(connection)
        elif message_over and connection.keeps and self._reuse and not connection.transport.is_closing():
            connection.linger(self._keep)
            assert self._loop is not None
            self._loop.call_later(_LINGER_SECONDS, _stop_lingering, connection)
        else:
            connection.abort()

    def _keep(self, connection: Connection) -> None:
        loop = self._loop
        if loop is None or not (self._reuse and connection.keeps and connection.usable and connection in self._open):
            connection.abort()
            return
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = loop.call_later(_KEEPALIVE_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """Let go of connections that nobody has used for a while."""
        self._sweeper = None
        loop = self._loop
        if loop is None:
            return
        since = loop.time() - _KEEPALIVE_SECONDS
        for connection in [one for one in self._idle if one.idle_since <= since]:
            self._idle.remove(connection)
            connection.abort()
        if self._idle:
            self._sweeper = loop.call_at(self._idle[0].idle_since + _KEEPALIVE_SECONDS, self._sweep)

    # The end

    async def close(self) -> None:
        """Close all connections."""
        guard, self._guard = self._guard, None
        if guard is not None and self._loop is asyncio.get_running_loop():
            await guard.aclose()
        else:
            self.discard()

    def discard(self) -> None:
        """Let go of all connections without waiting: their event loop may be gone."""
        loop, self._loop = self._loop, None
        connections, self._open = self._open, set()
        self._idle.clear()
        sweeper, self._sweeper = self._sweeper, None
        self._guard = None
        if loop is None or loop.is_closed() or self._process != os.getpid():
            return
        if _runs_here(loop):
            _end(connections, sweeper)
        else:
            try:
                loop.call_soon_threadsafe(_end, connections, sweeper)
            except RuntimeError:
                pass  # closed a moment ago

    def _begin_on(self, loop: asyncio.AbstractEventLoop) -> None:
        self.discard()
        self._loop = loop
        self._process = os.getpid()

    async def _end_with_loop(self) -> None:
        connections, sweeper = self._open, self._sweeper
        self._open, self._sweeper, self._loop = set(), None, None
        self._idle.clear()
        _end(connections, sweeper)
        if connections:
            await asyncio.sleep(0)  # the loop closes the sockets in its next round

    def __del__(self) -> None:
        # A service that was never closed must not complain at exit: its sockets go with it.
        if getattr(self, "_open", None):
            self.discard()


class _Streaming:
    """What `HttpClient.stream` gives."""

    __slots__ = ("_answer", "_body", "_client", "_connection", "_faults", "_path")

    def __init__(self, client: HttpClient, path: str, body: bytes) -> None:
        self._client, self._path, self._body = client, path, body
        self._faults = faults(client.origin)

    async def __aenter__(self) -> ByteStream:
        with self._faults:
            self._connection, self._answer = await self._client._ask("POST", self._path, self._body, False)
        self._faults.receiving = True
        return self._answer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client._release(self._connection, message_over=self._answer.over)
        if error is not None:
            self._faults.__exit__(kind, error, trace)


def _stop_lingering(connection: Connection) -> None:
    if connection.lingering:
        connection.abort()


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _end(connections: set[Connection], sweeper: asyncio.TimerHandle | None) -> None:
    if sweeper is not None:
        sweeper.cancel()
    for connection in list(connections):
        connection.close("the service was closed")


async def _closed_with_the_loop(client: HttpClient) -> AsyncGenerator[None, None]:
    """Keeps a client that nobody closes from being noisy: an event loop that ends closes its generators, and this one
    closes the connections, while that can still be done in order.
    """
    try:
        yield
    finally:
        await client._end_with_loop()
