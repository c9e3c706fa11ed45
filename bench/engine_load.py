"""The two sides of the engine benchmarks: miner's service, and a bare aiohttp client at the engine's own server."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from miner.config.config import MinerConfig
from miner.core.engine.environment import clean_environment
from miner.core.engine.launch_arguments import xllamacpp_arguments
from miner.core.engine.spec import EngineSpec
from miner.core.llms.contract.sampling import TOP_K_CAP
from miner.core.llms.llamacpp.dialect import NEUTRAL
from miner.core.llms.llamacpp.models import find_model, longest_context, spec_of
from miner.core.llms.llm_llamacpp import LlamaCppService

__all__ = ["Ask", "Bare", "Wave", "bare_server", "service_of", "settings_of", "spec_for", "wave"]

_numbers = itertools.count(1)
_TOPICS = ("the sea", "a lighthouse", "old maps", "bread", "the moon", "a train", "winter", "a clock maker")


def prompt() -> str:
    """A unique prompt, so that the prompt cache does not help."""
    number = next(_numbers)
    return f"Story {number}: tell me about {_TOPICS[number % len(_TOPICS)]}, please."


@dataclass
class Answer:
    """TTFT in seconds, and the number of tokens."""

    first: float
    tokens: int


Ask = Callable[[int], Awaitable[Answer]]
"""One generation of the given number of tokens."""


@dataclass
class Wave:
    """Results of concurrent generations."""

    wall: float
    results: list[Answer] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return sum(answer.tokens for answer in self.results) / self.wall

    @property
    def first(self) -> float:
        """Median time to the first token, in seconds."""
        return statistics.median(answer.first for answer in self.results)


async def wave(ask: Ask, requests: int, at_once: int, tokens: int) -> Wave:
    """Run `requests` generations, `at_once` at a time."""
    left = iter(range(requests))
    results = []

    async def asker() -> None:
        for _ in left:
            results.append(await ask(tokens))  # noqa: PERF401

    began = time.perf_counter()
    await asyncio.gather(*(asker() for _ in range(at_once)))
    result = Wave(time.perf_counter() - began, results)
    short = [answer.tokens for answer in results if answer.tokens != tokens]
    if short:
        raise SystemExit(f"{len(short)} of {requests} results have not {tokens} tokens but {short}")
    return result


def settings_of(**settings: Any) -> MinerConfig:
    """Settings of the demo model, without `.env`."""
    return MinerConfig(_env_file=None, **{"llamacpp_ctx_size": 1024, **settings})


def spec_for(settings: MinerConfig) -> EngineSpec:
    """The engine that the service starts with these settings."""
    model = find_model(None, settings)
    ctx_size = longest_context(model.header, settings)
    return spec_of(model, settings, ctx_size=ctx_size, parallel=settings.llamacpp_parallel or 8)


def service_of(service: LlamaCppService) -> Ask:
    """miner: the public stream."""

    async def ask(tokens: int) -> Answer:
        began, first, usage = time.perf_counter(), None, None
        async for chunk in service.stream(prompt(), max_tokens=tokens, extra={"ignore_eos": True}):
            if first is None and chunk.content:
                first = time.perf_counter() - began
            usage = chunk.usage or usage
        assert first is not None
        assert usage is not None
        return Answer(first, usage.completion_tokens)

    return ask


class Bare:
    """A bare client: aiohttp and json. It samples as miner does, so that the engine has the same work."""

    def __init__(self, address: str, **more: Any) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._address = address
        self._more = {"temperature": 0.7, "top_p": 0.95, **NEUTRAL, "top_k": TOP_K_CAP, **more}

    async def __aenter__(self) -> Bare:
        # The server closes the connection after each stream.
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def ask(self, tokens: int) -> Answer:
        assert self._session is not None
        body = {
            "messages": [{"role": "user", "content": prompt()}], "max_tokens": tokens, "ignore_eos": True,
            "stream": True, "stream_options": {"include_usage": True}, **self._more,
        }  # fmt: skip
        began, first, usage = time.perf_counter(), None, None
        async with self._session.post(f"{self._address}/v1/chat/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.content:
                if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                    continue
                event = json.loads(line[6:])
                usage = event.get("usage") or usage
                if first is None and event["choices"] and event["choices"][0]["delta"].get("content"):
                    first = time.perf_counter() - began
        assert first is not None
        assert usage is not None
        return Answer(first, usage["completion_tokens"])


@asynccontextmanager
async def bare_server(spec: EngineSpec, *, own_environment: bool = False, **more: Any) -> AsyncIterator[str]:
    """Address of the engine's own server, started with the same arguments as the service's engine.

    Args:
        own_environment: leave out what miner's launcher sets (GOMP_SPINCOUNT), which matters on a busy machine only.
        more: other parameters of the engine.
    """
    arguments = xllamacpp_arguments(spec)
    assert not arguments["constants"] or set(arguments["constants"]) <= {
        "flash_attn_type",
        "cache_type_k",
        "cache_type_v",
    }
    values = json.dumps({**arguments["values"], "fit_params": False, **more})
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(__file__).with_name("bare_engine.py")), values,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=None if own_environment else clean_environment(),
        start_new_session=True,  # as miner's engine: Linux schedules the CPU by session
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        address = (await process.stdout.readline()).decode().strip()
        if not address:
            raise SystemExit("the bare engine did not start")
        yield address
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            process.kill()
            await process.wait()
