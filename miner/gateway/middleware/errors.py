"""The handler around every handler: hooks, and errors as the route's dialect writes them and as the log shows them."""

from __future__ import annotations

import asyncio
import logging
import re
import traceback
import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from aiohttp import web

from miner.errors import BackendError, MinerError
from miner.gateway.context import NOBODY, Interruptible, RequestContext, Route
from miner.gateway.errors import (
    ClientGoneError,
    ErrorBoundary,
    Failure,
    InternalServerError,
    RefusedError,
    failure_of,
    shortened,
)
from miner.gateway.middleware.base import Middleware
from miner.gateway.route_path import shown_path
from miner.gateway.server.log_format import current_request
from miner.gateway.state import Gateway

logger = logging.getLogger("miner.gateway")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_MIN_QUOTE = 12
"""Characters by which a quoted prompt is recognized."""


def aiohttp_handler(
    gateway: Gateway, middleware: Sequence[Middleware], route: Route
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The route's handler as aiohttp calls it, behind the hooks of the middleware."""

    async def handle(request: web.Request) -> web.StreamResponse:
        context = RequestContext(gateway, middleware, route, request)
        gateway.requests.add(context)
        current_request.set(weakref.ref(context))  # of this task, which is the request's own
        try:
            # Outermost: no client sees a traceback, and no other request suffers.
            with ErrorBoundary(), Interruptible(context):
                if gateway.phase == "draining" and not route.always:
                    raise RefusedError(503, "shutting_down", "The server is shutting down.", retry_after=5)
                for each in middleware:
                    each.on_request(context)
                for each in middleware:
                    await each.before_body(context)
                _authorize(context)
                return await context.route.handler(context)
        except MinerError as error:
            if isinstance(error.__cause__, ConnectionError) and _is_disconnected(request):
                context.disconnected, context.status = True, context.status or 499
                raise ClientGoneError("The client has disconnected.") from error
            context.error = error
            return _error_response(context, error)
        except (asyncio.CancelledError, ClientGoneError):
            context.disconnected, context.status = True, context.status or 499
            raise
        finally:
            context.finish()
            gateway.response_finished(context)

    return handle


def _authorize(context: RequestContext) -> None:
    """Deny by default: a middleware must have set the caller, and the caller must have the right that the route needs.

    Raises:
        RefusedError: 401 or 403.
    """
    access, caller = context.route.access, context.caller
    if access == "open":
        return
    if caller is NOBODY:
        raise RefusedError(401, "invalid_api_key", "Invalid or missing API key.")
    if access == "admin" and not caller.admin:
        raise RefusedError(
            403, "admin_only", "This request requires a key with the admin right.",
            operator_hint="`miner keys new NAME --admin` creates one.",
        )  # fmt: skip


def _is_disconnected(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _error_response(context: RequestContext, error: MinerError) -> web.Response:
    """The response to a request that failed.

    Raises:
        ClientGoneError: a response had begun and its own end could not be written. A second head would look like a part
            of the body; so the connection is aborted, and the client sees that something is missing.
    """
    failure = failure_of(error, context.id, admin=context.caller.admin)
    log_error(context, failure, error)
    if context.headers_sent:
        transport = context.request.transport
        if transport is not None:
            transport.abort()
        raise ClientGoneError("The response broke off.") from error
    context.status = failure.status
    response = web.Response(
        status=failure.status,
        body=context.route.errors(failure),
        headers={**context.headers(), **failure.headers},
    )
    if context.gateway.phase == "draining" or not context.request.content.is_eof():
        # What is left of a body would have to be read before the next request: close instead.
        response.force_close()
    return response


def log_error(context: RequestContext, failure: Failure, error: MinerError, event: str = "failed") -> None:
    """Log an error where its cause, or what fixes it, is on our side: one line under the request's id with all that
    the client is not sent, and the traceback of an unexpected exception. Prompts are left out.
    """
    if not (isinstance(error, BackendError) or failure.status >= 500 or error.operator_hint):
        return
    cause = error.__cause__ if isinstance(error, InternalServerError) else None
    if cause is None:
        text = _CONTROL.sub(" ", _without_prompts(context, shortened(str(error))))
        logger.warning("Request %s %s: %s", context.id, event, text)
        return
    route = context.route
    message = f"Request {context.id} to {route.method} {shown_path(route.path)} {event}: {type(cause).__name__}"
    info = (type(cause), cause, cause.__traceback__)
    record = logger.makeRecord(logger.name, logging.ERROR, __file__, 0, message, (), info, "log_error")
    # As a formatter would write it, but without the prompt that the exception may quote.
    record.exc_text = _without_prompts(context, "".join(traceback.format_exception(cause))).rstrip()
    logger.handle(record)


def _without_prompts(context: RequestContext, text: str) -> str:
    if not context.gateway.settings.serve_log_prompts:
        for prompt in _prompts(context):
            text = _without(text, prompt)
    return text


def _prompts(context: RequestContext) -> Iterator[str]:
    """The prompts of a request: engines quote them in their errors."""
    for arguments in context.call.arguments if context.call is not None else ():
        yield from _strings(arguments.get("prompt"))
        for message in arguments.get("messages") or ():
            yield from _strings(message.get("content"))


def _strings(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            yield from _strings(part.get("text") if isinstance(part, dict) else None)


def _without(text: str, prompt: str) -> str:
    """The text without what it quotes of the prompt, from the prompt's beginning, however long the quotation is."""
    start = prompt[:_MIN_QUOTE]
    place = text.find(start) if len(start) == _MIN_QUOTE else -1
    while place >= 0:
        end = place + _MIN_QUOTE
        while end < len(text) and end - place < len(prompt) and text[end] == prompt[end - place]:
            end += 1
        text = f"{text[:place]}<prompt>{text[end:]}"
        place = text.find(start, place)
    return text
