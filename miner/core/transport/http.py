"""The HTTP client towards an engine: one aiohttp session, bounded waits, JSON calls and byte streams.

The only importer of aiohttp's client besides the error mapping.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from miner.core._typing import override
from miner.core.transport.faults import Origin, faults
from miner.core.transport.framing import FramingError
from miner.core.transport.redirect import redirected

__all__ = ["ByteStream", "HttpClient", "Reply"]

_CONNECT_SECONDS = 10.0
_KEEPALIVE_SECONDS = 4.0
"""vLLM and llama.cpp close an idle connection after 5 s: we let go of it before."""
_MAX_BODY_BYTES = 256 * 1024 * 1024


class Reply(msgspec.Struct, gc=False):
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class ByteStream:
    """An answer that is read as it comes."""

    __slots__ = ("_content", "_response", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._content = response.content
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def read_some(self) -> bytes:
        """What has arrived, at least one byte; b"" at the end."""
        try:
            return await self._content.readany()
        except RuntimeError as error:
            connection = self._response.connection
            if connection is not None and connection.transport is not None:
                raise
            raise aiohttp.ClientConnectionError("the service was closed") from error

    async def read_all(self) -> bytes:
        """The rest, which must not be without end."""
        part = await self._content.readany()
        if self._content.at_eof():
            return part
        parts, size = [part], len(part)
        while part := await self._content.readany():
            parts.append(part)
            size += len(part)
            if size > _MAX_BODY_BYTES:
                raise FramingError(f"an answer of more than {_MAX_BODY_BYTES} bytes")
        return parts[0] if len(parts) == 1 else b"".join(parts)


_reused: ContextVar[bool] = ContextVar("reused", default=False)
"""Whether the request of the running task goes over a connection that has served before."""


class _KeepingConnector(aiohttp.TCPConnector):
    """Keeps connections, and notes when it has to make one. (The library's own tracing tells it too, at a tenth of the
    cost of a whole request.)
    """

    def __init__(self) -> None:
        super().__init__(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS)

    @override
    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> Any:
        _reused.set(False)
        return await super()._create_connection(req, traces, timeout)


class HttpClient:
    """Speaks to one engine. Opens its session on first use and again on another event loop; `close` is idempotent.

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
        # All that the library would add by itself. No compression: a token is to be read when it comes.
        self._headers = {
            "Content-Type": "application/json", "Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "miner",
        }  # fmt: skip
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._unix_socket = unix_socket
        self._reuse = reuse and unix_socket is None
        # Two ways to say who we are cannot be sent at once: the key is the more explicit one.
        self._base = origin.shown_url if api_key else origin.base_url
        self._session: aiohttp.ClientSession | None = None
        self._guard: AsyncGenerator[None, None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = os.getpid()
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=origin.silence)

    async def request(
        self, method: str, path: str, body: bytes | None = None, *, total: float | None = None, root: bool = False
    ) -> Reply:
        """Send a request and read the whole answer, whatever its status.

        Args:
            total: seconds for the whole exchange, where it must be short.
            root: the path begins at the server's root, before the `/v1` of the address.
        """
        if root:
            path = "/.." + path
        timeout = self._timeout if total is None else aiohttp.ClientTimeout(total=total)
        with faults(self.origin, total=total) as state:
            response = await self._send(method, path, body, timeout)
            try:
                state.receiving = True
                return Reply(response.status, response.headers, await ByteStream(response).read_all())
            finally:
                response.release()

    @asynccontextmanager
    async def stream(self, path: str, body: bytes) -> AsyncIterator[ByteStream]:
        """POST and read the answer as it comes. Leaving the block early closes the connection, which is what makes an
        engine stop; errors raised inside the block are mapped too.
        """
        with faults(self.origin) as state:
            response = await self._send("POST", path, body, self._timeout)
            try:
                state.receiving = True
                yield ByteStream(response)
            finally:
                if not response.content.at_eof():
                    response.close()
                response.release()

    async def _send(
        self, method: str, path: str, body: bytes | None, timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        """The answer, of which the head has come. The caller releases it."""
        base = self._base
        url = base.removesuffix("/v1") + path[3:] if path.startswith("/../") else base + path
        session = self._session
        if session is None or session.closed or asyncio.get_running_loop() is not self._loop:
            session = await self._new_session()
        _reused.set(self._reuse)
        try:
            response = await session.request(method, url, data=body, timeout=timeout, allow_redirects=False)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            # A kept-alive connection that the server has just closed: once more on a fresh one, since not a byte of
            # an answer has come. On a new connection it means something else: the request may have killed the engine.
            if not _reused.get():
                raise
            response = await session.request(
                method, url, data=body, timeout=timeout, allow_redirects=False, headers={"Connection": "close"}
            )
        if 300 <= response.status < 400:
            response.close()
            raise redirected(response.status, response.headers.get("Location"), self.origin)
        return response

    async def _new_session(self) -> aiohttp.ClientSession:
        self.discard()
        self._loop = asyncio.get_running_loop()
        self._session = session = aiohttp.ClientSession(
            connector=self._connector(),
            headers=self._headers,
            auto_decompress=False,
            read_bufsize=2**18,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._guard = _closed_with_the_loop(session)
        await anext(self._guard)
        return session

    def _connector(self) -> aiohttp.BaseConnector:
        # No limit of connections here: how many requests run at once is decided by the queue in front.
        if self._unix_socket is not None:
            return aiohttp.UnixConnector(str(self._unix_socket), limit=0, force_close=True)
        if not self._reuse:
            return aiohttp.TCPConnector(limit=0, force_close=True)
        return _KeepingConnector()

    async def close(self) -> None:
        """Close all connections."""
        if self._loop is not asyncio.get_running_loop():
            self.discard()
            return
        guard, self._guard, self._session = self._guard, None, None
        if guard is not None:
            await guard.aclose()

    def discard(self) -> None:
        """Let go of the session without waiting: its event loop may be gone."""
        session, self._session, self._guard = self._session, None, None
        if session is not None:
            _abandon(session)

    def __del__(self) -> None:
        # A service that was never closed must not complain at exit: its sockets go with it.
        if getattr(self, "_session", None) is not None:
            self.discard()


async def _closed_with_the_loop(session: aiohttp.ClientSession) -> AsyncGenerator[None, None]:
    """Keeps a session that nobody closes from being noisy: an event loop that ends closes its generators, and this one
    closes the session, while that can still be done in order.
    """
    try:
        yield
    finally:
        await session.close()


def _abandon(session: aiohttp.ClientSession) -> None:
    """Close a session from outside its event loop: without a connector it has nothing to complain about."""
    connector = session.connector
    session.detach()
    if connector is not None and not connector.closed:
        connector._close()  # the public close() wants the loop that may be gone
