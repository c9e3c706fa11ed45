"""Fair-share eviction compared with FCFS: 200 mixed requests, three models, memory for one.

    python -m bench.pool            simulated engines on a virtual clock: 4 s to load, 0.3 s to stop, 4 slots
    python -m bench.pool --real     the llama.cpp engine and three links to the demo model (`--rule fair`: without FCFS)
    python -m bench.pool --together [--server LLAMA_SERVER]     two models that generate at once (`together.py`)

Both rules get the same requests and engines. FCFS: the oldest request decides which model is loaded; requests for that
model run concurrently until one for another model is the oldest.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from miner.core.engine.limits import PoolLimits
from miner.core.engine.pool import EnginePool
from miner.core.engine.spec import Engine, EngineAddress, EngineSpec
from tests.core.engine.simulated import Machine, simulate, spec_of

REQUESTS = 200

Serve = Callable[[EngineSpec, EngineAddress, float], Awaitable[None]]


@dataclass
class Job:
    """One request: its model, its start (seconds), its work."""

    spec: EngineSpec
    at: float
    work: float


class FirstCome:
    """FCFS over the same engines."""

    def __init__(self, make: Callable[[EngineSpec], Engine]) -> None:
        self._make = make
        self._engines: dict[EngineSpec, Engine] = {}
        self._door = asyncio.Lock()  # first in, first out
        self._loaded: EngineSpec | None = None
        self._address: EngineAddress | None = None
        self._in_flight = 0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def slot(self, spec: EngineSpec) -> AsyncIterator[EngineAddress]:
        async with self._door, self._changed:
            if self._loaded != spec:
                await self._changed.wait_for(lambda: self._in_flight == 0)
                if self._loaded is not None:
                    await self._engines[self._loaded].stop()
                engine = self._engines.setdefault(spec, self._make(spec))
                self._address, self._loaded = await engine.ensure_ready(), spec
            await self._changed.wait_for(lambda: self._in_flight < spec.parallel)
            self._in_flight += 1
        try:
            assert self._address is not None
            yield self._address
        finally:
            async with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    async def aclose(self) -> None:
        if self._loaded is not None:
            await self._engines[self._loaded].stop()


class FairShare:
    """The engine pool, with memory for one model."""

    def __init__(self, make: Callable[[EngineSpec], Engine], fairness_wait: float) -> None:
        limits = PoolLimits(max_loaded=1, fairness_wait=fairness_wait, queue_timeout=3600)
        self._pool = EnginePool(make, limits=limits)

    @asynccontextmanager
    async def slot(self, spec: EngineSpec) -> AsyncIterator[EngineAddress]:
        async with self._pool.lease(spec) as lease:
            yield lease.address

    async def aclose(self) -> None:
        await self._pool.aclose()


def at_once(specs: list[EngineSpec], seed: int, work: float) -> list[list[Job]]:
    """All at once."""
    pick = random.Random(seed)
    return [[Job(pick.choice(specs), 0.0, work * pick.uniform(0.3, 1.7))] for _ in range(REQUESTS)]


def spread(specs: list[EngineSpec], seed: int, work: float, over: float) -> list[list[Job]]:
    """At random times within a period."""
    pick = random.Random(seed)
    jobs = [Job(pick.choice(specs), pick.uniform(0, over), work * pick.uniform(0.3, 1.7)) for _ in range(REQUESTS)]
    return [[job] for job in sorted(jobs, key=lambda job: job.at)]


def clients(specs: list[EngineSpec], seed: int, work: float) -> list[list[Job]]:
    """Twelve clients, each with its own model, that send their requests one after the other."""
    pick = random.Random(seed)
    each = [REQUESTS // 12 + (i < REQUESTS % 12) for i in range(12)]
    return [[Job(specs[i % 3], 0.02, work * pick.uniform(0.3, 1.7)) for _ in range(n)] for i, n in enumerate(each)]


async def play(rule: FirstCome | FairShare, chains: list[list[Job]], serve: Serve) -> tuple[float, list[float]]:
    """Total seconds, and each request's wait for its slot."""
    loop = asyncio.get_running_loop()
    waits: list[float] = []

    async def chain(jobs: list[Job]) -> None:
        for job in jobs:
            await asyncio.sleep(job.at)
            requested = loop.time()
            async with rule.slot(job.spec) as address:
                waits.append(loop.time() - requested)
                await serve(job.spec, address, job.work)

    began = loop.time()
    await asyncio.gather(*(chain(jobs) for jobs in chains))
    took = loop.time() - began
    await rule.aclose()
    return took, waits


def show(name: str, rule: str, loads: int, took: float, waits: list[float]) -> None:
    """One line of the table."""
    print(
        f"| {name:<22} | {rule:<11} | {loads:>5} | {max(waits):>10.1f} | {statistics.median(waits):>8.1f} "
        f"| {took:>7.1f} | {len(waits) / took:>10.2f} |",
        flush=True,
    )


def head() -> None:
    """The table's head."""
    print("| 200 requests, 3 models | rule        | loads | max wait s | median s | total s | requests/s |")
    print("|------------------------|-------------|-------|------------|----------|---------|------------|")


Rules = tuple[tuple[str, Callable[[Callable[[EngineSpec], Engine]], FirstCome | FairShare]], ...]
RULES: Rules = (
    ("FCFS", FirstCome),
    ("fair, 10 s", lambda make: FairShare(make, 10.0)),
    ("fair, 60 s", lambda make: FairShare(make, 60.0)),
)
"""The seconds are the setting LLAMACPP_FAIRNESS_WAIT; 10 is the default."""


def simulated(seed: int, rules: Rules) -> None:
    """Four slots, three seconds a request, four to load."""
    head()
    specs = [spec_of(name, parallel=4) for name in "abc"]

    async def serve(spec: EngineSpec, address: EngineAddress, work: float) -> None:
        await asyncio.sleep(work)

    for name, chains in (
        ("at once", at_once(specs, seed, 3.0)),
        ("over 3 minutes", spread(specs, seed, 3.0, 180.0)),
        ("over 10 minutes", spread(specs, seed, 3.0, 600.0)),
        ("12 clients in a row", clients(specs, seed, 3.0)),
    ):
        for rule, kind in rules:
            machine = Machine(load=4.0, stop=0.3)

            async def main(kind=kind, machine=machine, chains=chains):
                return await play(kind(machine.make), chains, serve)

            took, waits = simulate(main())
            show(name, rule, machine.loads, took, waits)


async def real(specs: list[EngineSpec], seed: int, rules: Rules) -> None:
    """Up to 20 tokens per request, on 8 slots."""
    import aiohttp

    from miner.core.engine.launchers import find_launcher
    from miner.core.engine.process import EngineProcess

    head()
    loads = 0

    class Counted(EngineProcess):
        async def ensure_ready(self) -> EngineAddress:
            nonlocal loads
            loads += 1
            return await super().ensure_ready()

    async def serve(spec: EngineSpec, address: EngineAddress, work: float) -> None:
        body = {"prompt": "Once upon a time", "max_tokens": round(work), "stream": True, "ignore_eos": True}
        connector = aiohttp.UnixConnector(str(address.unix_socket)) if address.unix_socket else None
        headers = {"Authorization": f"Bearer {address.api_key}"} if address.api_key else {}
        async with (
            aiohttp.ClientSession(connector=connector, headers=headers) as session,
            session.post(f"{address.base_url}/v1/completions", json=body) as response,
        ):
            text = await response.text()
            if response.status != 200 or "[DONE]" not in text:
                raise SystemExit(f"the engine answered {response.status}: {text[-300:]}")

    for name, chains in (
        ("at once", at_once(specs, seed, 12.0)),
        ("12 clients in a row", clients(specs, seed, 12.0)),
    ):
        for rule, kind in rules:
            loads = 0
            took, waits = await play(kind(lambda spec: Counted(spec, find_launcher())), chains, serve)
            show(name, rule, loads, took, waits)


def links(directory: str) -> list[EngineSpec]:
    """The demo model under three names."""
    from miner.core.models.resolve import resolve

    specs = []
    for name in "abc":
        link = Path(directory, f"{name}.gguf")
        link.symlink_to(resolve("demo").path)
        specs.append(EngineSpec(model_path=link, alias=name, ctx_size=512, parallel=8))
    return specs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", action="store_true", help="real engines: many minutes, most of them for FCFS")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rule", choices=("FCFS", "fair"), help="only this one")
    parser.add_argument("--together", action="store_true", help="two models at once and one alone, side by side")
    parser.add_argument("--server", help="with --together: a llama-server binary, besides the wheel")
    parser.add_argument("--rounds", type=int, default=5, help="with --together")
    parser.add_argument("--tokens", type=int, default=120, help="with --together")
    arguments = parser.parse_args()
    chosen = tuple(rule for rule in RULES if arguments.rule is None or rule[0].startswith(arguments.rule))
    if arguments.together:
        from bench.together import together

        with tempfile.TemporaryDirectory() as directory:
            servers = [None, arguments.server] if arguments.server else [None]
            asyncio.run(together(Path(directory), servers, arguments.rounds, arguments.tokens))
    elif arguments.real:
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(real(links(directory), arguments.seed, chosen))
    else:
        simulated(arguments.seed, chosen)
