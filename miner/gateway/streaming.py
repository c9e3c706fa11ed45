"""OpenStream: the HTTP side of one streamed answer."""

from __future__ import annotations

import asyncio

from aiohttp import web

from miner.gateway.context import RequestContext
from miner.gateway.errors import ClientGoneError

__all__ = ["OpenStream"]

_HIGH_WATER = 64 * 1024
"""Bytes that may wait in a connection before a write waits too: asyncio's own mark."""


class _Response(web.StreamResponse):
    # The head waits for the first batch and goes out with it: one system call less for each stream.
    _send_headers_immediately = False


class OpenStream:
    """Headers go out with the first bytes; no write waits for longer than the settings allow."""

    def __init__(self, context: RequestContext, content_type: str, heartbeat: bytes) -> None:
        self.response: web.StreamResponse | None = None
        """None until the headers are out."""
        self.context = context
        self._content_type = content_type
        self.has_heartbeat = heartbeat != b""
        self._heartbeat = heartbeat
        self._loop = asyncio.get_running_loop()
        self._transport = context.request.transport
        self.written_at = self._loop.time()
        """When something was last sent, or the stream was asked for, on the loop's clock."""

    async def send(self, data: bytes) -> None:
        """Write.

        Raises:
            ClientGoneError: nobody is there, or nobody reads.
        """
        response = self.response
        if response is None:
            response = await self._begin()
        self.written_at = self.context.last_token_at or self._loop.time()
        transport = self._transport
        if transport is None:
            raise ClientGoneError("The client has left.")
        if transport.get_write_buffer_size() + len(data) <= _HIGH_WATER:
            try:
                await response.write(data)
            except ConnectionError as error:
                raise ClientGoneError("The client has left.") from error
            return
        try:
            async with asyncio.timeout(self.context.gateway.settings.serve_write_timeout):
                await response.write(data)
        except TimeoutError:
            transport.abort()
            raise ClientGoneError("The client does not read its answer.") from None
        except ConnectionError as error:
            raise ClientGoneError("The client has left.") from error

    async def end(self, data: bytes, *, broken: bool = False) -> web.StreamResponse:
        """Write the last bytes and the end of the body.

        Args:
            broken: the connection is closed then: whoever takes the error for an end must not go on with it.
        """
        if data:
            await self.send(data)
        response = self.response if self.response is not None else await self._begin()
        if broken:
            response.force_close()
        try:
            await response.write_eof()
        except ConnectionError as error:
            raise ClientGoneError("The client has left.") from error
        return response

    async def beat(self) -> None:
        """Say that the stream is alive. What cannot be written at once is not written at all."""
        transport = self._transport
        if transport is None or transport.is_closing() or transport.get_write_buffer_size():
            return
        self.written_at = self._loop.time()
        try:
            response = self.response if self.response is not None else await self._begin()
            await response.write(self._heartbeat)
        except ConnectionError:
            pass  # the handler of the stream learns it too

    async def _begin(self) -> web.StreamResponse:
        context = self.context
        context.status, context.head_sent = 200, True
        headers = context.headers(self._content_type)
        headers["Cache-Control"] = "no-cache"
        headers["X-Accel-Buffering"] = "no"  # nginx, too, is to hold nothing back
        self.response = response = _Response(headers=headers)
        try:
            await response.prepare(context.request)
        except ConnectionError as error:
            raise ClientGoneError("The client has left.") from error
        return response
