"""The connections of one client: kept for the next request, let go when they are idle, closed with their event loop."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path

from miner.core.http.address import ServerAddress, connect
from miner.core.http.connection import Connection
from miner.core.http.framing import FramingError
from miner.core.http.tls import trusted

__all__ = ["ConnectionLimits", "ConnectionPool"]

_KEEPALIVE_SECONDS = 4.0
"""vLLM and llama.cpp close an idle connection after 5 s: we let go of it before."""
_LINGER_SECONDS = 1.0
"""How long the mark of a body's end may come after the message's own."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What bounds the connections of a client."""

    connect_timeout: float = 10.0
    """Seconds until there must be a connection."""
    max_connections: int | None = None
    """Requests at once; those beyond wait for a permit. None: any number."""
    queue_timeout: float = 300.0
    """Seconds that they wait at most."""


class ConnectionPool:
    """Belongs to the event loop that it was used on last; on another one it begins again.

    Args:
        silence: see Connection.
        unix_socket: where to connect to in place of the address's host and port.
        connect_timeout: seconds until there must be a connection.
        reuse: keep connections for the next request.
        on_lost: called when the server closes a connection that was kept, before we let go of it.
    """

    def __init__(
        self, silence: float, unix_socket: Path | None, connect_timeout: float, *, reuse: bool,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._connect_timeout = connect_timeout
        self._silence = silence
        self._unix_socket = unix_socket
        self._reuse = reuse
        self._on_lost = on_lost
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = os.getpid()
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._tls: ssl.SSLContext | None = None
        self._guard: AsyncGenerator[None, None] | None = None

    async def connect(self, address: ServerAddress) -> Connection:
        """A new connection."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._begin_on(loop)
        if self._guard is None:
            self._guard = _closed_with_the_loop(self)
            await anext(self._guard)
        silence, ended = self._silence, self._ended
        if address.tls and self._tls is None:
            self._tls = await asyncio.to_thread(trusted)
        connection = await connect(
            loop,
            address,
            self._unix_socket,
            lambda: Connection(loop, silence, ended),
            tls=self._tls,
            timeout=self._connect_timeout,
        )
        self._open.add(connection)
        return connection

    def _ended(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:  # we would have taken it out
            self._idle.remove(connection)
            self._on_lost()

    def kept(self) -> Connection | None:
        """The connection that was used last, if it still serves; None: connect."""
        if not self._idle:
            return None
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._begin_on(loop)
        now = loop.time()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and now - connection.idle_since < _KEEPALIVE_SECONDS:
                return connection
            connection.abort()
        return None

    def make_room(self, most: int) -> None:
        """End connections that are over but for the end of their body, where there are so many already."""
        if len(self._open) >= most:
            for connection in [one for one in self._open if one.lingering]:
                connection.abort()

    def release(self, connection: Connection, *, message_over: bool = False) -> None:
        """After an answer, or in the middle of one that nobody wants any more."""
        try:
            finished = connection.finished
        except FramingError:
            finished = False
        if finished:
            self._keep(connection)
        elif (
            message_over
            and connection.keeps
            and self._reuse
            and self._loop is not None
            and not connection.transport.is_closing()
        ):
            connection.linger(self._keep)
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

    def retire(self) -> None:
        """Keep no connection from now on: those in use go when their requests are done."""
        self._reuse = False
        idle, self._idle = self._idle, []
        if self._loop is not None and _runs_here(self._loop):
            for connection in idle:
                connection.abort()

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
        connection.close()


async def _closed_with_the_loop(pool: ConnectionPool) -> AsyncGenerator[None, None]:
    """Keeps a pool that nobody closes from being noisy: an event loop that ends closes its generators, and this one
    closes the connections, while that can still be done in order.
    """
    try:
        yield
    finally:
        await pool._end_with_loop()
