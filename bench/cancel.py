"""How soon an engine's slot is free after a request is cancelled, by the engine's own metrics.

    python -m bench.cancel                          llama.cpp, the demo model
    python -m bench.cancel crowd                    64 prompts cancelled on 8 slots, and the request after them
    VLLM_API_BASE=http://... python -m bench.cancel vllm     a running, otherwise idle vLLM server

Requests are cancelled in the queue, in prefill or in decode, by cancelling the task or by leaving the `async for`, with
the engine's other slots idle or busy. llama.cpp's /slots and vLLM's /metrics (num_requests_running) are polled every 20
ms, which is the resolution.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import re
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import aiohttp

from miner.config.config import MinerConfig
from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.core.llms.llm_vllm import VLLMService
from miner.core.llms.LLMService import LLMService

POLL = 0.02
LIMIT = 30.0
SLOTS = 4
LONG = "Once upon a time there was a word. " * 200
"""About 1800 tokens: seconds of prefill."""

_numbers = itertools.count(1)


class Engine(Protocol):
    """An engine behind a service, and its metrics."""

    service: LLMService
    reading: float
    """Seconds in which the long prompt is certainly still in prefill."""
    late: float
    """Seconds by which its metrics may lag."""

    async def busy(self) -> int:
        """Number of running requests."""


class LlamaCpp:
    """An engine process of ours with four slots."""

    reading = 0.6
    late = 0.0

    def __init__(self, service: LlamaCppService, session: aiohttp.ClientSession, base: str) -> None:
        self.service: LLMService = service
        self._session = session
        self._base = base

    async def busy(self) -> int:
        async with self._session.get(f"{self._base}/slots") as response:
            return sum(slot["is_processing"] for slot in await response.json())


class VLLM:
    """A server at VLLM_API_BASE."""

    reading = 0.15
    late = 2.0  # it counts after each step, and a prefill step is long

    def __init__(self, service: VLLMService, session: aiohttp.ClientSession) -> None:
        self.service: LLMService = service
        self._session = session
        self._base = service.config.vllm_api_base.removesuffix("/v1")

    async def busy(self) -> int:
        async with self._session.get(f"{self._base}/metrics") as response:
            running = re.search(r"^vllm:num_requests_running\{.*\} (\S+)$", await response.text(), re.M)
        assert running is not None
        return int(float(running[1]))


async def _until(true: Callable[[], Awaitable[bool]], every: float = POLL) -> float:
    """Seconds until the condition is true."""
    began = time.perf_counter()
    while not await true():
        if time.perf_counter() - began > LIMIT:
            raise SystemExit(f"nothing changed within {LIMIT:g} s: does the engine serve somebody else too?")
        await asyncio.sleep(every)
    return time.perf_counter() - began


async def _works_on(engine: Engine, count: int) -> float:
    """Seconds until the engine runs this number of requests."""

    async def reached() -> bool:
        return await engine.busy() == count

    return await _until(reached)


def _options(tokens: int = 1000) -> dict[str, Any]:
    return {"max_tokens": tokens, "extra": {"ignore_eos": True}}


@asynccontextmanager
async def _others(engine: Engine, count: int) -> AsyncIterator[None]:
    """Run other generations during the block."""

    async def generate() -> None:
        while True:
            async for _ in engine.service.stream("Count to a thousand.", **_options()):
                pass

    tasks = [asyncio.create_task(generate()) for _ in range(count)]
    try:
        await _works_on(engine, count)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _works_on(engine, 0)


async def _cancelled(engine: Engine, phase: str, way: str, others: int) -> float:
    """Seconds from the cancellation until the slot is free."""
    service = engine.service
    # No prompt twice: a cached one has no prefill.
    text = f"Text {next(_numbers)}. {LONG if phase == 'prefill' else 'Count to a thousand.'}"
    arrived = asyncio.Event()

    async def stream() -> None:
        async for chunk in service.stream(text, **_options()):
            if chunk.content:
                arrived.set()

    if way == "break":
        async with service.stream(text, **_options()) as chunks:
            async for chunk in chunks:
                if chunk.content:
                    break
            began = time.perf_counter()
    else:
        task = asyncio.create_task(stream() if way == "task.cancel(), stream" else service.generate(text, **_options()))
        if phase == "decode" or not engine.late:
            await _works_on(engine, others + 1)
        if phase == "decode":
            await (arrived.wait() if way == "task.cancel(), stream" else asyncio.sleep(1.0))
        else:
            await asyncio.sleep(random.uniform(0.0, engine.reading))
            if arrived.is_set():
                raise SystemExit("The prompt was read already: this engine needs a longer one.")
        began = time.perf_counter()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await _works_on(engine, others)
    free = time.perf_counter() - began
    while time.perf_counter() - began < (engine.late if phase == "prefill" else 0.0):
        await asyncio.sleep(POLL)
        if await engine.busy() > others:
            free = time.perf_counter() - began
    return free


async def _left_in_queue(service: LLMService, way: str) -> float:
    """Seconds from the cancellation until the request is out of our queue."""
    call = service.generate("Hello", **_options()) if way == "task.cancel(), call" else _read(service)
    task = asyncio.create_task(call)

    async def waits() -> bool:
        return any(engine.queued for engine in (await service.health()).engines)

    async def gone() -> bool:
        return not await waits()

    await _until(waits)
    began = time.perf_counter()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await _until(gone, 0.001)
    return time.perf_counter() - began


async def _read(service: LLMService) -> None:
    async for _ in service.stream("Hello", **_options()):
        pass


def _row(phase: str, way: str, others: int, seconds: list[float]) -> None:
    row = [phase, way, str(others), f"{statistics.median(seconds) * 1000:.0f}", f"{max(seconds) * 1000:.0f}"]
    print(f"| {' | '.join(row)} |", flush=True)


async def measure(engine: Engine, repeats: int, *, queue: bool) -> None:
    """The table of one engine."""
    print("| phase | cancelled by | other requests | median, ms | max, ms |\n|---|---|---|---|---|")
    if queue:
        async with _others(engine, SLOTS):
            for way in ("task.cancel(), call", "task.cancel(), stream"):
                _row("queue", way, SLOTS, [await _left_in_queue(engine.service, way) for _ in range(repeats)])
    for others in (0, SLOTS - 1):
        async with _others(engine, others):
            for phase in ("prefill", "decode"):
                for way in ("task.cancel(), call", "task.cancel(), stream", "break"):
                    if (phase, way) != ("prefill", "break"):  # no chunk yet: no loop to leave
                        _row(phase, way, others,
                             [await _cancelled(engine, phase, way, others) for _ in range(repeats)])  # fmt: skip


async def llamacpp(repeats: int, batch: int | None) -> None:
    batch_size = {"llamacpp_batch_size": batch} if batch else {}
    config = MinerConfig(_env_file=None, llamacpp_parallel=SLOTS, llamacpp_ctx_size=4096, **batch_size)
    async with LlamaCppService(config) as service:
        await service.generate("Hello", max_tokens=1)
        # The engine's address is private.
        address = next(iter(service._engines._servers.values())).address
        connector = aiohttp.UnixConnector(str(address.unix_socket)) if address.unix_socket else None
        async with aiohttp.ClientSession(connector=connector) as session:
            await measure(LlamaCpp(service, session, address.base_url), repeats, queue=True)


async def crowd(repeats: int, batch: int | None) -> None:
    """Cancel 64 requests during the first prefills: the next request's first token, in time and in batches."""
    batch_size = {"llamacpp_batch_size": batch} if batch else {}
    config = MinerConfig(_env_file=None, llamacpp_parallel=8, llamacpp_ctx_size=4096, **batch_size)
    async with LlamaCppService(config) as service:
        await service.generate("Hello", max_tokens=1)
        (running,) = service._engines._servers.values()

        async def fetch(path: str) -> str:
            return (await running.http.request("GET", path, total=LIMIT, root=True)).body.decode()

        async def batches() -> int:
            found = re.search(r"^llamacpp:n_decode_total (\d+)", await fetch("/metrics"), re.M)
            assert found is not None
            return int(found[1])

        async def idle() -> bool:
            return '"is_processing":true' not in await fetch("/slots")

        print("| one batch, ms | TTFT, ms | batches | all slots free, ms | batches |")
        print("|---|---|---|---|---|")
        for _ in range(repeats):
            before, began = await batches(), time.perf_counter()
            texts = [f"Text {next(_numbers)}. {LONG}" for _ in range(64)]
            tasks = [asyncio.create_task(service.generate(text, **_options())) for text in texts]
            while await batches() < before + 3:  # noqa: ASYNC110
                await asyncio.sleep(POLL)
            one = (time.perf_counter() - began) / 3
            await asyncio.sleep(random.uniform(0.0, one))
            for task in tasks:
                task.cancel()
            left_at, began = await batches(), time.perf_counter()
            await asyncio.gather(*tasks, return_exceptions=True)
            async for chunk in service.stream("Say hi.", max_tokens=1):
                if chunk.content:
                    break
            first, needed = time.perf_counter() - began, await batches() - left_at
            await _until(idle)
            free, all_of_them = time.perf_counter() - began, await batches() - left_at
            row = (f"{one * 1000:.0f}", f"{first * 1000:.0f}", str(needed), f"{free * 1000:.0f}", str(all_of_them))
            print(f"| {' | '.join(row)} |", flush=True)


async def vllm(repeats: int) -> None:
    config = MinerConfig(_env_file=None)
    async with VLLMService(config) as service, aiohttp.ClientSession() as session:
        await measure(VLLM(service, session), repeats, queue=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", nargs="?", choices=("llamacpp", "crowd", "vllm"), default="llamacpp")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, help="LLAMACPP_BATCH_SIZE")
    args = parser.parse_args()
    print(f"{args.engine}, {args.repeats} times each, load {os.getloadavg()[0]:.1f}\n")
    if args.engine == "vllm":
        asyncio.run(vllm(args.repeats))
    else:
        asyncio.run((llamacpp if args.engine == "llamacpp" else crowd)(args.repeats, args.batch))


if __name__ == "__main__":
    main()
