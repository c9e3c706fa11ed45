"""The way that every request takes: id, checks, handler, and every error in the shape of the route's dialect."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from miner.errors import MinerError
from miner.gateway.errors import Failure, RefusedError, failure_of
from miner.gateway.exchange import NOBODY, Exchange
from miner.gateway.fault_log import log_fault
from miner.gateway.gateway import Gateway
from miner.gateway.interrupt import Interruptible
from miner.gateway.routes import Route

__all__ = ["guarded"]

logger = logging.getLogger("miner.gateway")


def guarded(gateway: Gateway, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The aiohttp handler of a route."""
    stages, handler = gateway.stages, route.handler

    async def serve(request: web.Request) -> web.StreamResponse:
        exchange = Exchange(gateway, route, request)
        gateway.present.add(exchange)
        try:
            with Interruptible(exchange):
                if gateway.state == "draining" and not route.always:
                    raise RefusedError(503, "shutting_down", "The server is shutting down.", retry_after=5)
                for check in stages.checks:
                    check(exchange)
                for admit in stages.admits:
                    await admit(exchange)
                _check_right(exchange)
                response = await handler(exchange)
        except MinerError as error:
            exchange.error = error
            response = _refusal(exchange, failure_of(error))
        except web.HTTPException as error:
            response = _refusal(exchange, Failure(error.status, "invalid_request", error.text or error.reason))
        except asyncio.CancelledError:
            exchange.hung_up, exchange.status = True, exchange.status or 499
            raise
        except ConnectionError:
            # The client went away while we wrote: nobody is left to answer.
            exchange.hung_up, exchange.status = True, exchange.status or 499
            raise
        except Exception:  # the last line: no client sees a traceback, and no other request suffers
            logger.exception("Request %s to %s failed by a bug.", exchange.id, route.path)
            exchange.error = RefusedError(500, "internal_error", "The server failed.")
            response = _refusal(exchange, Failure(500, "internal_error", f"The server failed (request {exchange.id})."))
        finally:
            exchange.leave()
            gateway.left(exchange)
        return response

    return serve


def _check_right(exchange: Exchange) -> None:
    """Deny by default: a stage must have said who calls, and what that caller may."""
    access, caller = exchange.route.access, exchange.caller
    if access == "open":
        return
    if caller is NOBODY:
        raise RefusedError(401, "invalid_api_key", "Invalid or missing API key.")
    if access == "admin" and not caller.admin:
        raise RefusedError(
            403, "admin_only", "This needs the admin right.",
            hint="A key that `miner keys new NAME --admin` made has it.",
        )  # fmt: skip


def _refusal(exchange: Exchange, failure: Failure) -> web.Response:
    """The answer to a request that is not served."""
    exchange.status = failure.status
    failure.request_id = exchange.id
    log_fault(exchange, failure, exchange.error)
    response = web.Response(
        status=failure.status,
        body=exchange.route.errors(failure),
        headers={**exchange.headers(), **failure.headers},
    )
    if exchange.gateway.state == "draining" or not exchange.request.content.is_eof():
        # What is left of a body would have to be read before the next request: hang up instead.
        response.force_close()
    return response
