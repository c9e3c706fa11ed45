"""The way that every request takes: id, checks, handler, and every error in the shape of the route's dialect."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable

from aiohttp import web

from miner.errors import MinerError
from miner.gateway.contained import Contained
from miner.gateway.context import NOBODY, RequestContext
from miner.gateway.errors import ClientGoneError, RefusedError, failure_of
from miner.gateway.middleware.error_log import log_fault
from miner.gateway.routing import Route
from miner.gateway.server.log_format import current_request
from miner.gateway.server.shutdown import Interruptible
from miner.gateway.state import Gateway

__all__ = ["guarded"]


def guarded(gateway: Gateway, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The aiohttp handler of a route."""
    middleware, handler = gateway.middleware, route.handler

    async def serve(request: web.Request) -> web.StreamResponse:
        context = RequestContext(gateway, route, request)
        gateway.present.add(context)
        current_request.set(weakref.ref(context))  # of this task, which is the request's own
        try:
            # The last line: no client sees a traceback, and no other request suffers.
            with Contained(), Interruptible(context):
                if gateway.state == "draining" and not route.always:
                    raise RefusedError(503, "shutting_down", "The server is shutting down.", retry_after=5)
                for check in middleware.checks:
                    check(context)
                for admit in middleware.admits:
                    await admit(context)
                _check_right(context)
                return await handler(context)
        except MinerError as error:
            if isinstance(error.__cause__, ConnectionError) and _has_gone(request):
                context.hung_up, context.status = True, context.status or 499
                raise ClientGoneError("The client has left.") from error
            context.error = error
            return _refusal(context, error)
        except (asyncio.CancelledError, ClientGoneError):
            # Nobody is left to write to.
            context.hung_up, context.status = True, context.status or 499
            raise
        finally:
            context.leave()
            gateway.left(context)

    return serve


def _check_right(context: RequestContext) -> None:
    """Deny by default: a middleware must have said who calls, and what that caller may."""
    access, caller = context.route.access, context.caller
    if access == "open":
        return
    if caller is NOBODY:
        raise RefusedError(401, "invalid_api_key", "Invalid or missing API key.")
    if access == "admin" and not caller.admin:
        raise RefusedError(
            403, "admin_only", "This needs the admin right.",
            hint="A key that `miner keys new NAME --admin` made has it.",
        )  # fmt: skip


def _has_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _refusal(context: RequestContext, error: MinerError) -> web.Response:
    """The answer to a request that is not served.

    Raises:
        ClientGoneError: a response had begun and its own end could not be written. A second head would look like a part
            of the body; so the connection breaks off, and the client sees that something is missing.
    """
    failure = failure_of(error, context.id)
    log_fault(context, failure, error)
    if context.head_sent:
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
    if context.gateway.state == "draining" or not context.request.content.is_eof():
        # What is left of a body would have to be read before the next request: hang up instead.
        response.force_close()
    return response
