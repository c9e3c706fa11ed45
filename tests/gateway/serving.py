"""A gateway on a free loopback port, as `miner serve` runs it, and backends for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web

from miner.config.config import MinerConfig
from miner.core.llms.llm_vllm import VLLMService
from miner.core.llms.LLMService import LLMService
from miner.gateway.app import GATEWAY, MIDDLEWARE, create_app
from miner.gateway.middleware.base import Middleware
from miner.gateway.server.run import make_runner
from miner.gateway.settings import GatewaySettings
from miner.gateway.state import Gateway

__all__ = ["Parrot", "Served", "alive", "config", "post", "serving", "vllm"]


class Parrot(LLMService):
    """A third party's backend of the smallest form: it knows one model, which repeats the prompt."""

    async def generate(self, prompt, model=None, max_tokens=512, temperature=0.7, top_p=0.95):  # type: ignore[override]
        self.asked = getattr(self, "asked", 0) + 1
        return f"You said: {prompt}"


@dataclass
class Served:
    """A running gateway."""

    url: str
    gateway: Gateway
    middleware: tuple[Middleware, ...] = ()

    @property
    def v1(self) -> str:
        return f"{self.url}/v1"


@asynccontextmanager
async def serving(
    service: LLMService, *, middleware: Iterable[Middleware] | None = None, routes: Any = None, **settings: Any
) -> AsyncIterator[Served]:
    """The gateway over this service while the block lasts; the service is closed after it."""
    settings.setdefault("serve_preload", False)
    known = GatewaySettings(_env_file=None, **settings)
    # As `miner serve` does it before its loop runs: it looks for packages on the disk.
    app = await asyncio.to_thread(create_app, service, known, middleware=middleware, routes=routes)
    runner = make_runner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        yield Served(f"http://127.0.0.1:{port}", app[GATEWAY], app[MIDDLEWARE])
    finally:
        await asyncio.wait_for(runner.cleanup(), 30)
        await service.aclose()


def config(**settings: Any) -> MinerConfig:
    """Settings of a backend, with nothing from the environment's files."""
    return MinerConfig(_env_file=None, **settings)


def vllm(engine: Any, **settings: Any) -> VLLMService:
    """A service for this engine, without retries."""
    return VLLMService(config(vllm_api_base=engine.v1, max_retries=0, **settings))


async def alive(served: Served) -> bool:
    """Whether the server still responds."""
    async with aiohttp.ClientSession() as session, session.get(f"{served.url}/livez") as answer:
        return answer.status == 200


@asynccontextmanager
async def post(
    served: Served, body: Any, path: str = "/v1/chat/completions", **options: Any
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The answer to a POST; the body is JSON unless it is bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body)
    async with aiohttp.ClientSession() as session, session.post(served.url + path, data=data, **options) as answer:
        yield answer
