"""EventStream: the HTTP side of one streamed response (SSE, NDJSON), its heartbeat, and its errors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

from aiohttp import web

from miner.errors import MinerError
from miner.gateway.context import Interruptible, RequestContext
from miner.gateway.errors import ClientGoneError, ErrorBoundary, Failure, failure_of
from miner.gateway.middleware.errors import log_error

_HIGH_WATER = 64 * 1024
"""Bytes that may wait in a connection before a write waits too: asyncio's own limit."""


class _Response(web.StreamResponse):
    # The headers wait for the first batch and go out with it: one system call less for each stream.
    _send_headers_immediately = False


class EventStream:
    """Headers are sent with the first bytes; no write waits for longer than the settings allow.

    Args:
        context: of the request.
        content_type: of the body.
        heartbeat: what is sent while the engine sends nothing; b"": no heartbeat.
        early_errors: codes of errors that are events also where nothing was sent before.
    """

    def __init__(
        self, context: RequestContext, content_type: str, heartbeat: bytes, early_errors: Collection[str] = ()
    ) -> None:
        self.response: web.StreamResponse | None = None
        """None until the headers are sent."""
        self._context = context
        self._content_type = content_type
        self._heartbeat = heartbeat
        self._early_errors = early_errors
        self._loop = asyncio.get_running_loop()
        self._transport = context.request.transport
        self.written_at = self._loop.time()
        """When something was last sent, or the stream was created, on the loop's clock."""

    @property
    def request_id(self) -> str:
        """The id of its request."""
        return self._context.id

    async def run(
        self, write: Callable[[], Awaitable[bytes]], error_event: Callable[[Failure], bytes]
    ) -> web.StreamResponse:
        """Let `write` send the stream and return its last bytes.

        Whatever it raises once the headers are out ends the body with an error event, and the connection is closed. One
        of the early errors is the whole stream: its connection stays usable.

        Raises:
            MinerError: it failed before, so that there can be a status.
        """
        context, streams = self._context, self._context.gateway.streams
        if self._heartbeat:
            streams.add(self)
        try:
            with ErrorBoundary(), Interruptible(context):
                last = await write()
        except MinerError as error:
            streams.discard(self)
            failure = failure_of(error, context.id, admin=context.caller.admin)
            if self.response is None and failure.code not in self._early_errors:
                raise
            context.error = error
            log_error(context, failure, error, "broke off in the middle of its stream" if self.response else "failed")
            return await self._end(error_event(failure), broken=self.response is not None)
        finally:
            streams.discard(self)
        return await self._end(last)

    async def send(self, data: bytes) -> None:
        """Write.

        Raises:
            ClientGoneError: the client has disconnected, or does not read.
        """
        response = self.response
        if response is None:
            response = await self._begin()
        self.written_at = self._context.last_token_at or self._loop.time()
        transport = self._transport
        if transport is None:
            raise ClientGoneError("The client has disconnected.")
        if transport.get_write_buffer_size() + len(data) <= _HIGH_WATER:
            try:
                await response.write(data)
            except ConnectionError as error:
                raise ClientGoneError("The client has disconnected.") from error
            return
        try:
            async with asyncio.timeout(self._context.gateway.settings.serve_write_timeout):
                await response.write(data)
        except TimeoutError:
            transport.abort()
            raise ClientGoneError("The client does not read its response.") from None
        except ConnectionError as error:
            raise ClientGoneError("The client has disconnected.") from error

    async def send_heartbeat(self) -> None:
        """Send the heartbeat; skip it if it cannot be written at once."""
        transport = self._transport
        if transport is None or transport.is_closing() or transport.get_write_buffer_size():
            return
        self.written_at = self._loop.time()
        try:
            response = self.response if self.response is not None else await self._begin()
            await response.write(self._heartbeat)
        except ConnectionError:
            pass  # the handler of the stream notices it too

    async def _begin(self) -> web.StreamResponse:
        context = self._context
        context.status, context.headers_sent = 200, True
        headers = context.headers(self._content_type)
        headers["Cache-Control"] = "no-cache"
        headers["X-Accel-Buffering"] = "no"  # nginx must not buffer it
        self.response = response = _Response(headers=headers)
        try:
            await response.prepare(context.request)
        except ConnectionError as error:
            raise ClientGoneError("The client has disconnected.") from error
        return response

    async def _end(self, data: bytes, *, broken: bool = False) -> web.StreamResponse:
        """Write the last bytes and the end of the body. After a broken one the connection is closed, so that
        the error is not taken for the end of the stream.
        """
        if data:
            await self.send(data)
        response = self.response if self.response is not None else await self._begin()
        if broken:
            response.force_close()
        try:
            await response.write_eof()
        except ConnectionError as error:
            raise ClientGoneError("The client has disconnected.") from error
        return response
