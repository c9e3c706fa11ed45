"""A raw HTTP/1.1 server for tests: what goes over the socket, and in which pieces, is exactly what a test says."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.servers.ports import keep, reserved

__all__ = ["Disconnect", "RawServer", "Request", "ResponseWriter"]

WAIT = 60.0
"""Seconds that a `wait_for_...` waits at most: generous, since machines are slow."""


@dataclass
class Request:
    """One request as it came."""

    method: str
    path: str
    """Without the query."""
    query: dict[str, list[str]]
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    connection: int
    """Number of the connection that it came on, from 0."""
    nth: int
    """How many requests had come on that connection before it."""
    received: float = field(default_factory=time.monotonic)

    @property
    def json(self) -> Any:
        """The body as JSON; None if it is empty or no JSON."""
        try:
            return json.loads(self.body) if self.body else None
        except ValueError:
            return None

    @property
    def streams(self) -> bool:
        """Whether it requests a stream: Ollama's own API streams by default, OpenAI's does not."""
        body = self.json
        return bool(body.get("stream", self.path.startswith("/api/"))) if isinstance(body, dict) else False


@dataclass
class Disconnect:
    """A client that disconnected before its response was complete."""

    request: Request
    time: float
    """When it was noticed, on the monotonic clock, in seconds."""


class ResponseWriter:
    """Writes the response to one request."""

    def __init__(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self.complete = False
        """Whether the response was written to its end: a client that closes then is no disconnect."""
        self.closing = False
        """Whether the connection is closed after this response."""
        self.started = False
        self._writer = writer

    async def raw(self, data: bytes) -> None:
        """Write these bytes as they are."""
        self.started = True
        self._writer.write(data)
        await self._writer.drain()

    async def head(self, status: int, headers: dict[str, str]) -> None:
        """Write the status line and these headers, no others."""
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        await self.raw(("\r\n".join(lines) + "\r\n\r\n").encode())

    async def piece(self, data: bytes) -> None:
        """Write one HTTP chunk."""
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    async def end(self) -> None:
        """Write the last chunk of a chunked body."""
        self.complete = True
        await self.raw(b"0\r\n\r\n")

    async def respond(self, status: int, body: bytes | str | dict[str, Any] | list[Any], **headers: str) -> None:
        """Write a complete response; a dict or list becomes JSON. Underscores in header names become hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, dict | list):
            named.setdefault("content-type", "application/json")
            body = json.dumps(body)
        data = body.encode() if isinstance(body, str) else body
        await self.head(status, named | {"content-length": str(len(data))})
        self.complete = True
        await self.raw(b"" if self.request.method == "HEAD" else data)
        self.closing = self.closing or named.get("connection") == "close"

    async def hold(self) -> None:
        """Write nothing more until the client disconnects, which cancels the handler."""
        await asyncio.Event().wait()

    def drop(self) -> None:
        """Close the connection as it stands, in the orderly way (FIN)."""
        self.complete = self.closing = True
        self._writer.close()

    def reset(self) -> None:
        """Break the connection (RST)."""
        self.complete = self.closing = True
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


class _Connection:
    """Reads all the time, so that a disconnect is noticed while a response is written."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.writer = writer
        self.gone = asyncio.Event()
        self._reader = reader
        self._buffer = bytearray()
        self._news = asyncio.Event()
        self._count = 0

    async def pump(self) -> None:
        try:
            while data := await self._reader.read(1 << 16):
                self._buffer += data
                self._news.set()
        except ConnectionError:
            pass
        self.gone.set()
        self._news.set()

    async def _until(self, mark: bytes) -> bytes | None:
        while (at := self._buffer.find(mark)) < 0:
            if not await self._more():
                return None
        return self._take(at + len(mark))

    async def _exactly(self, size: int) -> bytes | None:
        while len(self._buffer) < size:
            if not await self._more():
                return None
        return self._take(size)

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def _more(self) -> bool:
        if self.gone.is_set():
            return False
        self._news.clear()
        await self._news.wait()
        return True

    async def next_request(self) -> Request | None:
        """The next request; None when the client has left."""
        head = await self._until(b"\r\n\r\n")
        if head is None:
            return None
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, _version = first.split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = await self._chunked()
        else:
            body = await self._exactly(int(headers.get("content-length", "0")))
        if body is None:
            return None
        url = urlsplit(target)
        request = Request(method, url.path, parse_qs(url.query), headers, body, self.number, self._count)
        self._count += 1
        return request

    async def _chunked(self) -> bytes | None:
        body = b""
        while (line := await self._until(b"\r\n")) is not None:
            size = int(line.split(b";")[0], 16)
            data = await self._exactly(size + 2)
            if data is None:
                return None
            if not size:
                return body
            body += data[:size]
        return None


class RawServer:
    """Listens on a free loopback port while its `async with` lasts; subclasses answer in `handle`.

    What went wrong in a handler, or what `verdict` finds at the end, fails the test when the block is left.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.disconnects: list[Disconnect] = []
        self.failures: list[BaseException] = []
        self.connections = 0
        """How many connections have been accepted."""
        self.open_connections = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._reservation: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def handle(self, writer: ResponseWriter) -> None:
        """Answer one request."""
        raise NotImplementedError

    def verdict(self) -> list[str]:
        """Complaints about what the client did; any of them fails the test."""
        return []

    @property
    def url(self) -> str:
        """`http://127.0.0.1:port`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def v1(self) -> str:
        """The same with `/v1`: the base URL of an OpenAI-compatible server."""
        return f"{self.url}/v1"

    def sent(self, path: str) -> list[Request]:
        """The requests to this path, oldest first."""
        return [request for request in list(self.requests) if request.path == path]

    async def wait_for_requests(self, count: int = 1, path: str | None = None, timeout: float = WAIT) -> None:
        """Wait until so many requests have come, to any path or to this one."""
        await self._wait(lambda: len(self.sent(path) if path else self.requests) >= count, f"{count} requests", timeout)

    async def wait_for_disconnects(self, count: int = 1, timeout: float = WAIT) -> None:
        """Wait until so many clients have hung up before the end."""
        await self._wait(lambda: len(self.disconnects) >= count, f"{count} disconnects", timeout)

    async def _wait(self, met: Any, what: str, timeout: float) -> None:
        end = time.monotonic() + timeout
        while not met():
            if time.monotonic() > end:
                raise AssertionError(
                    f"waited {timeout} s for {what}; had {len(self.requests)} requests, "
                    f"{len(self.disconnects)} disconnects"
                )
            await asyncio.sleep(0.005)

    async def start(self) -> Self:
        """Listen."""
        if self._reservation is None:
            self._reservation = reserved(self.port)
            self.port = self._reservation.getsockname()[1]
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        return self

    async def stop(self) -> None:
        """Stop listening, break what is open. The port stays reserved: `start` can take it again."""
        if self._server is None:
            return
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.wait_for(self._server.wait_closed(), WAIT)
        self._server = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        await self.stop()
        if self._reservation is not None:
            keep(self._reservation)  # another server may take its place
            self._reservation = None
        complaints = self.verdict() + [f"the test server failed: {failure!r}" for failure in self.failures]
        if not complaints:
            return
        if error is not None:
            error.add_note("test server: " + "\n".join(complaints))
            return
        raise AssertionError("\n".join(complaints)) from (self.failures[0] if self.failures else None)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self.connections, reader, writer)
        self.connections += 1
        task = asyncio.create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: _Connection) -> None:
        self.open_connections += 1
        pump = asyncio.create_task(connection.pump())
        try:
            while (request := await connection.next_request()) is not None:
                self.requests.append(request)
                writer = ResponseWriter(request, connection.writer)
                await self._handle(writer, connection)
                if writer.closing:
                    break
            # Not to the end of time: the client may have stopped reading.
            connection.writer.close()
            await asyncio.wait_for(connection.writer.wait_closed(), WAIT)
        except (ConnectionError, TimeoutError):
            pass
        finally:
            self.open_connections -= 1
            pump.cancel()
            connection.writer.transport.abort()
            await asyncio.gather(pump, return_exceptions=True)

    async def _handle(self, writer: ResponseWriter, connection: _Connection) -> None:
        handler = asyncio.create_task(self.handle(writer))
        gone = asyncio.create_task(connection.gone.wait())
        try:
            await asyncio.wait({handler, gone}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done() and not writer.complete:
                self.disconnects.append(Disconnect(writer.request, time.monotonic()))
                writer.closing = True
        finally:
            gone.cancel()
            handler.cancel()
            await asyncio.gather(handler, gone, return_exceptions=True)
        if not handler.cancelled() and (error := handler.exception()) and not isinstance(error, ConnectionError):
            self.failures.append(error)
            writer.closing = True
            if not writer.started:
                await writer.respond(500, f"the test server failed: {error!r}")
