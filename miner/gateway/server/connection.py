"""Connections: invalid HTTP gets an error in the dialect's JSON as well."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from aiohttp import hdrs, web
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from miner.core._typing import override
from miner.gateway.apis.errors import error_shape_of
from miner.gateway.context import RequestContext, Route, new_id
from miner.gateway.errors import Failure, RefusedError
from miner.gateway.middleware.base import Middleware
from miner.gateway.middleware.errors import aiohttp_handler
from miner.gateway.state import Gateway

MAX_HEADER = 8190
"""Bytes of one header, its name included."""
MAX_URI = 8191
"""Bytes of a request's URI. Different from MAX_HEADER: only the number in the parser's error distinguishes them."""

_REQUEST_LINE = re.compile(rb"[A-Z]+ (?:https?://[^/ ]*)?(/[^ ?]*)")


class Runner(web.AppRunner):
    """The runner of the application, with our own class of connections."""

    @override
    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Server  # aiohttp has no argument for it
        return server


class _Server(web.Server):
    @override
    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _RejectedError(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class _Connection(RequestHandler):
    """Responds to invalid HTTP in the format of the dialect."""

    __slots__ = ("_start",)

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._start = b""
        """The beginning of the last data that may hold a request line."""

    @override
    def data_received(self, data: bytes) -> None:
        if data[:1].isupper():
            self._start = data[:256]
        super().data_received(data)
        if self._messages:
            self._refuse_message()
        if self._messages and isinstance(self._messages[-1][0], _ErrInfo):
            self._end_body()

    def _refuse_message(self) -> None:
        """Refuse messages that the parser accepts and no route can serve: CONNECT, other versions of HTTP."""
        message, _ = self._messages[-1]
        if isinstance(message, _ErrInfo):
            return
        if message.method == hdrs.METH_CONNECT:
            failure = Failure(
                405, "method_not_allowed", "CONNECT is not supported: this server is not a proxy.",
                headers={"Allow": "GET, HEAD, POST"},
            )  # fmt: skip
        elif message.version not in ((1, 0), (1, 1)):
            failure = _wrong_version()
        else:
            return
        self._messages[-1] = (_ErrInfo(status=failure.status, exc=_RejectedError(failure), message=""), EMPTY_PAYLOAD)

    def _end_body(self) -> None:
        """End the request whose body turned out invalid: it would wait for the rest in vain."""
        request = self._current_request
        if request is not None and not request.content.is_eof():
            self._messages.pop()
            request.content.set_exception(web.RequestPayloadError("The body is not valid."))

    @override
    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("A response was sent already.")
        if isinstance(exc, _RejectedError):
            failure = exc.failure
        elif status == 400 and exc is not None:
            failure = _failure(type(exc).__name__, exc.args, message or "")
        else:
            failure = Failure(500, "internal_error", "Internal server error.")
        line = _REQUEST_LINE.match(self._start)
        path = line.group(1).decode("ascii", "replace") if line is not None else "/"
        failure.request_id = new_id()
        headers = {
            "Content-Type": "application/json", "X-Request-Id": failure.request_id, "Server": "miner",
            "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", **failure.headers,
        }  # fmt: skip
        response = web.Response(status=failure.status, body=error_shape_of(path)(failure), headers=headers)
        response.force_close()
        return response


def _wrong_version() -> Failure:
    return Failure(505, "http_version_not_supported", "This server supports HTTP/1.1 and HTTP/1.0.")


def _failure(kind: str, details: tuple[Any, ...], message: str) -> Failure:
    """The error for a client, by the class of the parser's error."""
    if kind == "LineTooLong":
        if details[1] == MAX_URI:
            return Failure(414, "uri_too_long", f"The request's URI is longer than {MAX_URI} bytes.")
        text = f"A header of the request is larger than {MAX_HEADER} bytes."
        return Failure(431, "header_too_large", text)
    if "Too many headers" in message:
        return Failure(431, "too_many_headers", "The request has too many headers.")
    if "PRI/Upgrade" in message:  # how HTTP/2 begins
        return _wrong_version()
    if "HTTPS" in message:
        return Failure(400, "invalid_http", "This port speaks HTTP, not HTTPS: use http:// in the address.")
    reason = message.partition("\n")[0].strip().rstrip(":.")
    return Failure(400, "invalid_http", f"The request is not valid HTTP: {reason}.")


def expect_handler(
    gateway: Gateway, middleware: Sequence[Middleware], route: Route
) -> Callable[[web.Request], Awaitable[web.StreamResponse | None]]:
    """The handler that aiohttp calls for a request with an `Expect` header."""
    refuse = aiohttp_handler(gateway, middleware, replace(route, handler=_refuse_expectation))

    async def expect(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get(hdrs.EXPECT, "").strip().lower() != "100-continue":
            return await refuse(request)
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the response itself has not begun
        return None

    return expect


async def _refuse_expectation(context: RequestContext) -> web.StreamResponse:
    wanted = context.request.headers.get(hdrs.EXPECT, "")[:100]
    raise RefusedError(417, "expectation_failed", f"Expect: {wanted} is not supported.", hint="Only 100-continue is.")
