"""`/livez` and `/readyz`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from aiohttp import web

from miner.core.counted import counted
from miner.gateway.context import RequestContext
from miner.gateway.errors import public, retry_after_header
from miner.gateway.state import Gateway

_RETRY_SECONDS = 2.0


async def livez(context: RequestContext) -> web.StreamResponse:
    """The process is alive."""
    return _respond(context, 200, b'{"status":"ok"}')


async def readyz(context: RequestContext) -> web.StreamResponse:
    """Whether a request could be served now; the body has the reason why not, and for admins what to do."""
    problem = await not_ready(context.gateway)
    if problem is None:
        return _respond(context, 200, msgspec.json.encode({"status": "ready", **_config_error(context)}))
    reason = public(problem.reason)
    if context.caller.admin:
        reason = f"{problem.reason} {problem.hint}" if problem.hint else problem.reason
    body = msgspec.json.encode({"status": "not ready", "reason": reason})
    return _respond(context, 503, body, {"Retry-After": retry_after_header(problem.retry_after or _RETRY_SECONDS)})


def _config_error(context: RequestContext) -> dict[str, str]:
    """Why the configuration file is not served as it is now: what was served before still is."""
    state = context.gateway.service.config_state
    if state is None or state.error is None:
        return {}
    whole = f"{state.error} {state.hint}" if state.hint else state.error
    return {"config": whole if context.caller.admin else public(state.error)}


def _respond(
    context: RequestContext, status: int, body: bytes, headers: Mapping[str, str] | None = None
) -> web.Response:
    context.status = status
    return web.Response(status=status, body=body, headers={**context.headers(), **(headers or {})})


@dataclass(frozen=True, slots=True)
class NotReady:
    """Why the gateway is not ready."""

    reason: str
    hint: str | None = None
    """Advice for the operator."""
    retry_after: float | None = None
    """Seconds after which it may be, where that is known."""


async def not_ready(gateway: Gateway) -> NotReady | None:
    """Why the gateway is not ready; None if it is."""
    if gateway.phase == "draining":
        return NotReady("the server is shutting down")
    for name, problem in gateway.background.problems.items():
        return NotReady(f"the {name} has failed and is being restarted", f"Its error: {problem}")
    for check in gateway.readiness_checks:
        reason = check()
        if reason is not None:
            return NotReady(reason)
    if gateway.phase == "starting":
        return NotReady(gateway.loading or "the server is starting")
    if gateway.running:
        idle = asyncio.get_running_loop().time() - gateway.last_activity_at
        if idle > gateway.settings.serve_stall:
            running = counted(len(gateway.running), "request")
            verb = "is" if len(gateway.running) == 1 else "are"
            return NotReady(f"{running} {verb} running and no token has come for {idle:.0f} s")
    health = await gateway.health.current()
    if health:
        return None
    return NotReady(health.reason or f"the backend is {health.state}", health.hint, health.retry_after)
