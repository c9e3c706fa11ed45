"""`/livez` and `/readyz`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from miner.core.wire import Health
from miner.errors import MinerError
from miner.gateway.contained import Contained
from miner.gateway.errors import InternalServerError, public, retry_after_header

if TYPE_CHECKING:
    from miner.core.llms.LLMService import LLMService
    from miner.gateway.context import RequestContext
    from miner.gateway.state import Gateway

__all__ = ["HealthCache", "NotReady", "livez", "not_ready", "readyz"]

_RETRY_SECONDS = 2.0

logger = logging.getLogger("miner.gateway")


async def livez(context: RequestContext) -> web.StreamResponse:
    """The process is alive."""
    return _respond(context, 200, b'{"status":"ok"}')


async def readyz(context: RequestContext) -> web.StreamResponse:
    """Whether a request could be served now; the body says why not, and to who has the admin right what to do."""
    problem = await not_ready(context.gateway)
    if problem is None:
        return _respond(context, 200, b'{"status":"ready"}')
    reason = public(problem.reason)
    if context.caller.admin:
        reason = f"{problem.reason} {problem.hint}" if problem.hint else problem.reason
    body = msgspec.json.encode({"status": "not ready", "reason": reason})
    return _respond(context, 503, body, {"Retry-After": retry_after_header(problem.retry_after or _RETRY_SECONDS)})


def _respond(
    context: RequestContext, status: int, body: bytes, headers: Mapping[str, str] | None = None
) -> web.Response:
    context.status = status
    sent = context.headers()
    sent["Cache-Control"] = "no-store"
    sent.update(headers or {})
    return web.Response(status=status, body=body, headers=sent)


@dataclass(frozen=True, slots=True)
class NotReady:
    """Why the gateway is not ready."""

    reason: str
    hint: str | None = None
    """What only whoever runs it can use."""
    retry_after: float | None = None
    """Seconds after which it may be, where that is known."""


async def not_ready(gateway: Gateway) -> NotReady | None:
    """Why the gateway is not ready; None if it is."""
    if gateway.state == "draining":
        return NotReady("the server is shutting down")
    for name, problem in gateway.background.problems.items():
        return NotReady(f"the {name} has stopped and is started again", f"Its error: {problem}")
    for middleware in gateway.middleware.all:
        wrong = middleware.problem()
        if wrong is not None:
            return NotReady(wrong)
    if gateway.state == "starting":
        return NotReady(gateway.loading or "the server is starting")
    if gateway.running:
        silence = asyncio.get_running_loop().time() - gateway.sign_at
        if silence > gateway.settings.serve_stall:
            return NotReady(f"{len(gateway.running)} requests run and nothing has come for {silence:.0f} s")
    health = await gateway.health.current()
    if health:
        return None
    return NotReady(health.reason or f"the backend is {health.state}", health.hint, health.retry_after)


class HealthCache:
    """The backend's health, asked at most every second however often probes come, and by one of them at a time."""

    fresh = 1.0
    """Seconds."""

    def __init__(self, service: LLMService) -> None:
        self._service = service
        self._lock = asyncio.Lock()
        self._health: Health | None = None
        self._at = 0.0
        self._logged = ""
        """The failure of a health check that the log has already: probes come every few seconds."""

    async def current(self) -> Health:
        """The health, not older than a second."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if self._health is None or now - self._at > self.fresh:
                self._health = await self._ask()
                self._at = asyncio.get_running_loop().time()
            return self._health

    async def _ask(self) -> Health:
        try:
            with Contained():
                return await self._service.health()
        except MinerError as error:
            cause = error.__cause__ if isinstance(error, InternalServerError) else error
            told = f"{type(cause).__name__}: {cause}"
            if told != self._logged:
                logger.error("The health check of the backend failed.", exc_info=cause)
            self._logged = told
            return Health(state="failed", reason="the backend's health check failed; the server's log says why")
