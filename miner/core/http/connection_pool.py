"""The connections of one client: reused by later requests, closed when idle and with their event loop."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path

from miner.core.http.address import ServerAddress, connect
from miner.core.http.connection import Connection
from miner.core.http.tls import ssl_context
from miner.core.http.transport_errors import FramingError

_KEEPALIVE_SECONDS = 4.0
"""vLLM and llama.cpp close an idle connection after 5 s: ours are closed before."""
_DRAIN_SECONDS = 1.0
"""How long the last chunk of a body may take after the message in it is complete."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of the connections of a client."""

    connect_timeout: float = 10.0
    """Seconds for a new connection."""
    max_connections: int | None = None
    """Concurrent requests; further ones wait for a permit. None: unlimited."""
    queue_timeout: float = 300.0
    """Seconds that they wait at most."""


class ConnectionPool:
    """Belongs to the event loop that used it last; on another one it starts empty.

    Args:
        read_timeout: see Connection.
        unix_socket: where to connect to in place of the address's host and port.
        connect_timeout: seconds for a new connection.
        reuse: keep connections for later requests.
        on_lost: called when the server closes an idle connection.
    """

    def __init__(
        self, read_timeout: float, unix_socket: Path | None, connect_timeout: float, *, reuse: bool,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._unix_socket = unix_socket
        self._reuse = reuse
        self._on_lost = on_lost
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = os.getpid()
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._tls: ssl.SSLContext | None = None
        self._loop_close_hook: AsyncGenerator[None, None] | None = None

    async def connect(self, address: ServerAddress) -> Connection:
        """Return a new connection.

        Raises:
            ConnectError: it cannot be made; InvalidAddressError: the host cannot exist.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._bind(loop)
        if self._loop_close_hook is None:
            self._loop_close_hook = _close_with_loop(self)
            await anext(self._loop_close_hook)
        read_timeout, lost = self._read_timeout, self._lost
        if address.tls and self._tls is None:
            self._tls = await asyncio.to_thread(ssl_context)
        connection = await connect(
            loop,
            address,
            self._unix_socket,
            lambda: Connection(loop, read_timeout, lost),
            tls=self._tls,
            timeout=self._connect_timeout,
        )
        self._open.add(connection)
        return connection

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:  # closed by the server: what is closed here has been removed before
            self._idle.remove(connection)
            self._on_lost()

    def idle_connection(self) -> Connection | None:
        """Return the idle connection that was used last and is still usable; None if there is none."""
        if not self._idle:
            return None
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._bind(loop)
        now = loop.time()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and now - connection.idle_since < _KEEPALIVE_SECONDS:
                return connection
            connection.abort()
        return None

    def abort_draining(self, limit: int) -> None:
        """Abort connections that only drain, if `limit` connections are open."""
        if len(self._open) >= limit:
            for connection in [one for one in self._open if one.draining]:
                connection.abort()

    def release(self, connection: Connection, *, message_complete: bool = False) -> None:
        """Take back a connection after a response, or in the middle of one that is no longer wanted.

        Args:
            message_complete: nothing but the last chunk of the body can follow: the connection may drain.
        """
        try:
            complete = connection.response_complete()
        except FramingError:
            complete = False
        loop = self._loop
        if complete:
            self._keep(connection)
        elif (
            message_complete
            and connection.keep_alive
            and self._reuse
            and loop is not None
            and not connection.transport.is_closing()
        ):
            connection.drain(self._keep)
            loop.call_later(_DRAIN_SECONDS, _stop_draining, connection)
        else:
            connection.abort()

    def _keep(self, connection: Connection) -> None:
        loop = self._loop
        reusable = self._reuse and connection.keep_alive and connection.usable and connection in self._open
        if loop is None or not reusable:
            connection.abort()
            return
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = loop.call_later(_KEEPALIVE_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """Close connections that have been idle for too long."""
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

    # Closing

    def retire(self) -> None:
        """Keep no connection from now on: those in use are closed when their requests are done."""
        self._reuse = False
        idle, self._idle = self._idle, []
        if self._loop is not None and _is_running(self._loop):
            for connection in idle:
                connection.abort()

    async def close(self) -> None:
        """Close all connections."""
        guard, self._loop_close_hook = self._loop_close_hook, None
        if guard is not None and self._loop is asyncio.get_running_loop():
            await guard.aclose()
        else:
            self.discard()

    def discard(self) -> None:
        """Drop all connections without waiting: their event loop may be closed."""
        loop = self._loop
        connections, sweeper = self._reset()
        self._loop_close_hook = None
        if loop is None or loop.is_closed() or self._process != os.getpid():
            return
        if _is_running(loop):
            _close_all(connections, sweeper)
        else:
            try:
                loop.call_soon_threadsafe(_close_all, connections, sweeper)
            except RuntimeError:
                pass  # closed in the meantime

    def _reset(self) -> tuple[set[Connection], asyncio.TimerHandle | None]:
        connections, sweeper = self._open, self._sweeper
        self._open, self._sweeper, self._loop = set(), None, None
        self._idle.clear()
        return connections, sweeper

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        self.discard()
        self._loop = loop
        self._process = os.getpid()

    async def _close_connections(self) -> None:
        connections, sweeper = self._reset()
        _close_all(connections, sweeper)
        if connections:
            await asyncio.sleep(0)  # the loop closes the sockets in its next iteration

    def __del__(self) -> None:
        # A service that was never closed causes no ResourceWarning at exit.
        if getattr(self, "_open", None):
            self.discard()


def _stop_draining(connection: Connection) -> None:
    if connection.draining:
        connection.abort()


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _close_all(connections: set[Connection], sweeper: asyncio.TimerHandle | None) -> None:
    if sweeper is not None:
        sweeper.cancel()
    for connection in list(connections):
        connection.close()


async def _close_with_loop(pool: ConnectionPool) -> AsyncGenerator[None, None]:
    """Close the pool's connections with the event loop, which closes its asynchronous generators at shutdown."""
    try:
        yield
    finally:
        await pool._close_connections()
