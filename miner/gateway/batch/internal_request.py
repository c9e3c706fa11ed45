"""Requests that the gateway makes to its own routes: through limits, queues, counters and logs like any other."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from miner.core.wire import TokenUsage
from miner.errors import MinerError
from miner.gateway.context import Caller, Interruptible, RequestContext, Route
from miner.gateway.errors import ErrorBoundary, InternalServerError, failure_of
from miner.gateway.middleware.base import Middleware
from miner.gateway.middleware.errors import log_error
from miner.gateway.server.log_format import current_request
from miner.gateway.state import Gateway


class _Body:
    """The content of a request, as a handler reads it."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def is_eof(self) -> bool:
        return True

    def at_eof(self) -> bool:
        return not self._body

    async def readany(self) -> bytes:
        body, self._body = self._body, b""
        return body


class _Request:
    """As much of a `web.Request` as handlers and middleware use."""

    transport = None

    def __init__(self, route: Route, body: bytes, headers: dict[str, str], peer: str) -> None:
        self.method = route.method
        self.path = route.path
        self.remote = peer
        self.headers = CIMultiDictProxy(CIMultiDict({"Content-Type": "application/json", **headers}))
        self.content_length = len(body)
        self.content = _Body(body)
        self.query: dict[str, str] = {}
        self.match_info: dict[str, str] = {}


@dataclass(slots=True)
class InternalResponse:
    """The response to an internal request."""

    status: int
    body: bytes
    request_id: str
    usage: TokenUsage | None
    retry_after: float | None = None
    """Seconds after which it may succeed, where the response says so."""


async def send_internally(
    gateway: Gateway, middleware: Sequence[Middleware], route: Route, body: bytes, *, caller: Caller, peer: str,
    headers: dict[str, str],
) -> InternalResponse:  # fmt: skip
    """Call a route that responds with JSON. Cancelling it stops the engine, as a client that disconnects does.

    Args:
        caller: who is counted and limited.
        peer: address of the client.
        headers: of the request.
    """
    context = RequestContext(gateway, middleware, route, cast("web.Request", _Request(route, body, headers, peer)))
    context.caller = caller
    current_request.set(weakref.ref(context))
    try:
        with ErrorBoundary(), Interruptible(context):
            checks = [each for each in middleware if not each.checks_sender]
            for each in checks:
                each.on_request(context)
            for each in checks:
                await each.before_body(context)
            response = await route.handler(context)
            if not isinstance(response, web.Response) or not isinstance(response.body, bytes):
                raise InternalServerError
            return InternalResponse(response.status, response.body, context.id, context.usage)
    except MinerError as error:
        context.error, failure = error, failure_of(error, context.id)
        context.status = failure.status
        log_error(context, failure, error)
        return InternalResponse(
            failure.status, context.route.errors(failure), context.id, context.usage, _seconds(failure.headers)
        )
    except BaseException:
        context.disconnected, context.status = True, 499
        raise
    finally:
        context.finish()
        gateway.response_finished(context)


def _seconds(headers: dict[str, Any]) -> float | None:
    text = headers.get("Retry-After")
    return None if text is None else float(text)
