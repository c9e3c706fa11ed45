"""The HTTP client towards an engine: one aiohttp session, bounded waits, JSON calls and byte streams.

The only importer of aiohttp's client besides the error mapping.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from miner.core.transport.faults import Origin, faults

__all__ = ["ByteStream", "HttpClient", "Reply"]

_CONNECT_SECONDS = 10.0
_KEEPALIVE_SECONDS = 4.0
"""vLLM and llama.cpp close an idle connection after 5 s: we let go of it before."""
_MAX_BODY_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
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
        return await self._content.readany()

    async def read_all(self) -> bytes:
        """The rest, up to a bound: for error bodies."""
        parts: list[bytes] = []
        size = 0
        while size < _MAX_BODY_BYTES:
            part = await self._content.readany()
            if not part:
                break
            parts.append(part)
            size += len(part)
        return b"".join(parts)


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
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._unix_socket = unix_socket
        self._reuse = reuse
        self._session: aiohttp.ClientSession | None = None
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
        with faults(self.origin) as state:
            async with self._open(method, path, body, timeout) as response:
                state.receiving = True
                return Reply(response.status, response.headers, await response.read())

    @asynccontextmanager
    async def stream(self, path: str, body: bytes) -> AsyncIterator[ByteStream]:
        """POST and read the answer as it comes. Leaving the block early closes the connection, which is what makes an
        engine stop; errors raised inside the block are mapped too.
        """
        with faults(self.origin) as state:
            async with self._open("POST", path, body, self._timeout) as response:
                state.receiving = True
                try:
                    yield ByteStream(response)
                finally:
                    if not response.content.at_eof():
                        response.close()

    @asynccontextmanager
    async def _open(
        self, method: str, path: str, body: bytes | None, timeout: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        base = self.origin.base_url
        url = base.removesuffix("/v1") + path[3:] if path.startswith("/../") else base + path
        session = self._current_session()
        try:
            response = await session.request(method, url, data=body, timeout=timeout, headers=self._headers)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            # A kept-alive connection that the server has just closed: once more on a fresh one. Not a byte of an
            # answer has come, and nothing else can end so at once on a new connection without being refused there.
            if not self._reuse or isinstance(error, aiohttp.ClientConnectorError):
                raise
            headers = {**self._headers, "Connection": "close"}
            response = await session.request(method, url, data=body, timeout=timeout, headers=headers)
        try:
            yield response
        finally:
            response.release()

    def _current_session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._session is None or self._session.closed or loop is not self._loop:
            self.discard()
            self._loop = loop
            self._session = aiohttp.ClientSession(
                connector=self._connector(), auto_decompress=False, read_bufsize=2**18, skip_auto_headers=["User-Agent"]
            )
        return self._session

    def _connector(self) -> aiohttp.BaseConnector:
        # No limit of connections here: how many requests run at once is decided by the queue in front.
        if self._unix_socket is not None:
            return aiohttp.UnixConnector(str(self._unix_socket), limit=0, force_close=True)
        if not self._reuse:
            return aiohttp.TCPConnector(limit=0, force_close=True)
        return aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS)

    async def close(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is None:
            return
        if self._loop is asyncio.get_running_loop():
            await session.close()
        else:
            _abandon(session)

    def discard(self) -> None:
        """Let go of the session without waiting: its event loop may be gone."""
        session, self._session = self._session, None
        if session is not None:
            _abandon(session)

    def __del__(self) -> None:
        # A service that was never closed must not complain at exit: its sockets go with it.
        if getattr(self, "_session", None) is not None:
            self.discard()


def _abandon(session: aiohttp.ClientSession) -> None:
    """Close a session from outside its event loop: without a connector it has nothing to complain about."""
    connector = session.connector
    session.detach()
    if connector is not None and not connector.closed:
        connector._close()  # the public close() wants the loop that may be gone
