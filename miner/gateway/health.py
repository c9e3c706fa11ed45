"""`/livez` and `/readyz`."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from miner.core.wire import Health
from miner.errors import MinerError
from miner.gateway.contained import Contained
from miner.gateway.errors import InternalServerError, public

if TYPE_CHECKING:
    from miner.core.llms.LLMService import LLMService
    from miner.gateway.exchange import Exchange
    from miner.gateway.gateway import Gateway

__all__ = ["HealthCache", "livez", "not_ready_reason", "readyz"]

logger = logging.getLogger("miner.gateway")


async def livez(exchange: Exchange) -> web.StreamResponse:
    """The process is alive."""
    return _answer(exchange, 200, b'{"status":"ok"}')


async def readyz(exchange: Exchange) -> web.StreamResponse:
    """Whether a request could be served now; the body says why not, and to who has the admin right what mends it."""
    reason = await not_ready_reason(exchange.gateway, hints=exchange.caller.admin)
    if reason is None:
        return _answer(exchange, 200, b'{"status":"ready"}')
    if not exchange.caller.admin:
        reason = public(reason)
    return _answer(exchange, 503, msgspec.json.encode({"status": "not ready", "reason": reason}))


def _answer(exchange: Exchange, status: int, body: bytes) -> web.Response:
    exchange.status = status
    headers = exchange.headers()
    headers["Cache-Control"] = "no-store"
    if status == 503:
        headers["Retry-After"] = "2"
    return web.Response(status=status, body=body, headers=headers)


async def not_ready_reason(gateway: Gateway, *, hints: bool = True) -> str | None:
    """Why the gateway is not ready; None if it is."""
    if gateway.state == "draining":
        return "the server is shutting down"
    for name, problem in gateway.background.problems.items():
        return f"the {name} has stopped and is started again" + (f": {problem}" if hints else "")
    for stage in gateway.stages.all:
        wrong = stage.problem()
        if wrong is not None:
            return wrong
    if gateway.state == "starting":
        return gateway.loading or "the server is starting"
    if gateway.running:
        silence = asyncio.get_running_loop().time() - gateway.sign_at
        if silence > gateway.settings.serve_stall:
            return f"{len(gateway.running)} requests run and nothing has come for {silence:.0f} s"
    health = await gateway.health.current()
    if health:
        return None
    told = health.reason or f"the backend is {health.state}"
    return f"{told} {health.hint}" if health.hint and hints else told


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
