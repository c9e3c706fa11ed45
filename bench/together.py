"""Two models that generate at once compared with one alone, and the pool's table compared with the plain backend.

`python -m bench.pool --together [--server LLAMA_SERVER]`: the wheel, and a `llama-server` binary if one is named.
Tokens a second are those of the engines' own counters: all tokens of both over the longer time.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp

from miner.config.config import MinerConfig
from miner.core.engine.launchers import find_launcher
from miner.core.engine.process import EngineProcess
from miner.core.engine.spec import EngineAddress, EngineSpec
from miner.core.engine.threads import usable_cores
from miner.core.llms import LLMService, get_backend
from miner.core.models.resolve import resolve

NAMES = ("a", "b")
PROMPT = "Once upon a time"

Generate = Callable[[str], Awaitable[tuple[int, float]]]
"""From a model's name to tokens, and the engine's seconds for them."""


class Direct:
    """Engines with a thread for each core, as if each were alone: nothing of the pool is between."""

    def __init__(self, directory: Path, server: str | None, tokens: int) -> None:
        self._tokens = tokens
        self._engines = {
            name: EngineProcess(
                EngineSpec(directory / f"{name}.gguf", name, ctx_size=2048, parallel=1, threads=usable_cores()),
                find_launcher(server),
            )
            for name in NAMES
        }
        self._addresses: dict[str, EngineAddress] = {}

    async def __aenter__(self) -> Direct:
        for name, engine in self._engines.items():
            self._addresses[name] = await engine.ensure_ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        for engine in self._engines.values():
            await engine.stop()

    async def generate(self, name: str) -> tuple[int, float]:
        address = self._addresses[name]
        connector = aiohttp.UnixConnector(str(address.unix_socket)) if address.unix_socket else None
        headers = {"Authorization": f"Bearer {address.api_key}"} if address.api_key else {}
        body = {"prompt": PROMPT, "n_predict": self._tokens, "ignore_eos": True, "cache_prompt": False}
        async with (
            aiohttp.ClientSession(connector=connector, headers=headers) as session,
            session.post(f"{address.base_url}/completion", json=body) as response,
        ):
            timings = (await response.json())["timings"]
        return timings["predicted_n"], timings["predicted_ms"] / 1000


def table(directory: Path, server: str | None, threads: int | None = None) -> LLMService:
    """The pool over a file with both models."""
    path = directory / f"{'binary' if server else 'wheel'}-{threads}.toml"
    lines = ['[backends.local]\nkind = "llamacpp"', f'server = "{server}"' if server else ""]
    lines += [f"[defaults]\nthreads = {threads}"] if threads else []
    lines += [f'[models.{name}]\nbackend = "local"\nfile = "{name}.gguf"\ncontext = 2048\nslots = 1' for name in NAMES]
    path.write_text("\n".join(lines))
    return get_backend("pool", MinerConfig(config=str(path)))


def through(service: LLMService, tokens: int) -> Generate:
    """Requests through a service."""

    async def generate(name: str) -> tuple[int, float]:
        response = await service.chat_completion(
            [{"role": "user", "content": PROMPT}], model=name, max_tokens=tokens, extra={"ignore_eos": True}
        )
        assert response.usage is not None
        assert response.timings is not None
        assert response.timings.decode is not None
        return response.usage.completion_tokens, response.timings.decode

    return generate


async def speed(generate: Generate, names: tuple[str, ...]) -> float:
    """Tokens a second of these models at once."""
    results = await asyncio.gather(*map(generate, names))
    return sum(tokens for tokens, _ in results) / max(seconds for _, seconds in results)


async def compare(directory: Path, server: str | None, rounds: int, tokens: int) -> None:
    """The table of one kind of engine."""
    launcher = find_launcher(server)
    openmp = launcher.uses_openmp()
    print(f"\n{launcher.name}, {'with' if openmp else 'without'} OpenMP, {usable_cores()} cores\n", flush=True)
    rows: dict[str, list[float]] = {}
    async with AsyncExitStack() as stack:
        direct = (await stack.enter_async_context(Direct(directory, server, tokens))).generate
        runs: list[tuple[str, Generate]] = [("a thread for each core, nothing else", direct)]
        shared = await stack.enter_async_context(table(directory, server))
        runs.append(("in the pool's table", through(shared, tokens)))
        if not openmp:
            turns = await stack.enter_async_context(table(directory, server, usable_cores()))
            runs.append((f"in the table with threads = {usable_cores()} (turns)", through(turns, tokens)))
        for _, generate in runs:
            await speed(generate, NAMES)
        for _ in range(rounds):
            for name, generate in runs:
                for models in (NAMES[:1], NAMES):
                    rows.setdefault(f"{name} | {len(models)}", []).append(await speed(generate, models))
    alone = next(iter(rows.values()))
    print("| threads | models at once | tokens/s | to one alone with all cores: median | least | most |")
    print("|---|---|---|---|---|---|")
    for name, speeds in rows.items():
        ratios = [each / base for each, base in zip(speeds, alone, strict=True)]
        print(
            f"| {name} | {statistics.median(speeds):.0f} | {statistics.median(ratios):.2f} "
            f"| {min(ratios):.2f} | {max(ratios):.2f} |"
        )


async def plain_and_pool(directory: Path, rounds: int, tokens: int) -> None:
    """The same requests for both models, through the table and through LLM_BACKEND=llamacpp."""
    plain = get_backend("llamacpp", MinerConfig(models_dir=str(directory), llamacpp_ctx_size=2048, llamacpp_parallel=1))
    pool = table(directory, None)
    took: dict[str, list[float]] = {"plain": [], "pool": []}
    async with plain, pool:
        for number in range(rounds + 1):  # the first one loads
            for kind, service in (("plain", plain), ("pool", pool)):
                generate = through(service, tokens // 4)
                began = time.perf_counter()
                await asyncio.gather(*(generate(NAMES[i % 2]) for i in range(8)))
                if number:
                    took[kind].append(time.perf_counter() - began)
    ratios = [pool / plain for plain, pool in zip(took["plain"], took["pool"], strict=True)]
    plain_s, pool_s = (statistics.median(each) for each in took.values())
    print(
        f"\n8 requests of {tokens // 4} tokens for two models: LLM_BACKEND=llamacpp {plain_s:.2f} s, the pool's table "
        f"{pool_s:.2f} s; to each other {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})."
    )


async def together(directory: Path, servers: list[str | None], rounds: int, tokens: int) -> None:
    """All tables."""
    for name in NAMES:
        (directory / f"{name}.gguf").symlink_to(resolve("demo").path)
    before = os.getloadavg()[0]
    for server in servers:
        await compare(directory, server, rounds, tokens)
    await plain_and_pool(directory, rounds, tokens)
    after = os.getloadavg()[0]
    print(f"\n{rounds} rounds of {tokens} tokens; load average {before:.1f} before, {after:.1f} after.")
