"""`miner serve` in front of the real engine: throughput and inter-token latency compared with the engine's own server.

    python -m bench.gateway_engine

Throughput: 16 concurrent streams through the gateway with its own engine, and of a bare client at the engine's own
server; rounds are interleaved. Inter-token latency: streams through the gateway from an engine behind a relay that
timestamps each chunk, during other requests; printed are the correlation of the gaps before and after the gateway, and
its latency per chunk.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from itertools import pairwise
from typing import Any

import aiohttp

from bench import targets
from bench.engine_load import bare_server, prompt, settings_of, spec_for
from bench.miner_bench import miner_bench
from bench.targets import KEY
from miner.core.llms.contract.sampling import TOP_K_CAP
from miner.core.llms.llamacpp.dialect import NEUTRAL

_ENDS = {"0": -100, "2": -100}
"""End-of-generation tokens of the demo model, banned so that all responses have the same length."""


_SAMPLING = {**NEUTRAL, "top_k": TOP_K_CAP}


class Client:
    """An OpenAI client that timestamps each chunk of text."""

    def __init__(self, url: str, **more: Any) -> None:
        self._url = url
        self._more = more
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True), headers={"Authorization": f"Bearer {KEY}"}
        )
        self.times: list[float] = []
        """Timestamps of the last stream, by time.perf_counter."""

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(self, tokens: int) -> None:
        """One generation of so many tokens."""
        body = {
            "messages": [{"role": "user", "content": prompt()}], "max_tokens": tokens, "logit_bias": _ENDS,
            "stream": True, "stream_options": {"include_usage": True}, "temperature": 0.7, "top_p": 0.95, **self._more,
        }  # fmt: skip
        counted, times = 0, []
        async with self._session.post(f"{self._url}/v1/chat/completions", json=body) as response:
            if response.status != 200:
                raise SystemExit(await response.text())
            async for line in response.content:
                if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                    continue
                event = json.loads(line[6:])
                if event.get("usage"):
                    counted = event["usage"]["completion_tokens"]
                if event["choices"] and event["choices"][0]["delta"].get("content"):
                    times.append(time.perf_counter())
        if counted != tokens:
            raise SystemExit(f"a response has not {tokens} tokens but {counted}")
        self.times = times


class Recorder:
    """Relays bytes to the engine and back, and timestamps each chunk of text from it."""

    def __init__(self, engine: str) -> None:
        self._host, port = engine.removeprefix("http://").split(":")
        self._port = int(port)
        self.times: list[float] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """The relay's address."""
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_engine = await asyncio.open_connection(self._host, self._port)

        async def send() -> None:
            while piece := await reader.read(65536):
                to_engine.write(piece)
            to_engine.close()

        sending = asyncio.create_task(send())
        try:
            while piece := await there.read(65536):
                now = time.perf_counter()
                self.times += [now] * piece.count(b'"delta":{"content":"')
                writer.write(piece)
        finally:
            sending.cancel()
            to_engine.close()
            writer.close()


async def rate(rounds: int, tokens: int, at_once: int) -> None:
    """Print tokens per second, compared with the engine's own server, by `miner bench`."""
    settings = settings_of(llamacpp_parallel=at_once)
    environ = {
        "MINER_API_KEYS": KEY, "LLM_BACKEND": "llamacpp", "LLAMACPP_CTX_SIZE": "1024",
        "LLAMACPP_PARALLEL": str(at_once), "MINER_SERVE_LOG": "off",
    }  # fmt: skip
    work = {"concurrency": at_once, "requests": at_once, "prompt_tokens": 16, "max_tokens": tokens, "ignore_eos": True}
    async with AsyncExitStack() as stack:
        gateway = stack.enter_context(targets.serving(environ))
        address = await stack.enter_async_context(bare_server(spec_for(settings)))
        # Sample as miner does: the engine's own defaults are cheaper.
        sampling = json.dumps({"temperature": 0.7, "top_p": 0.95, **_SAMPLING})
        sides = {"miner": (gateway.url, {"key": KEY}), "bare": (address, {"extra_body": sampling})}
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
        for number in range(rounds):
            for name in list(sides)[:: -1 if number % 2 else 1]:
                url, options = sides[name]
                runs[name].append(await asyncio.to_thread(miner_bench, url, **work, **options))
    rates = {name: [run["output_throughput"] for run in runs[name]] for name in sides}
    first = {name: statistics.median(run["ttft"]["p50"] for run in runs[name]) for name in sides}
    each = sorted(a / b for a, b in zip(rates["miner"], rates["bare"], strict=True))
    print(f"\n{at_once} streams of {tokens} tokens, {rounds} rounds (load {os.getloadavg()[0]:.1f})\n")
    print("| | tokens/s | TTFT |\n| --- | ---: | ---: |")
    print(f"| miner serve | {statistics.median(rates['miner']):.0f} | {first['miner']:.2f} s |")
    print(f"| the engine's own server | {statistics.median(rates['bare']):.0f} | {first['bare']:.2f} s |")
    print(f"\nratio: median {statistics.median(each):.3f}, {each[0]:.3f} to {each[-1]:.3f} (target: at least 0.97)")


async def rhythm(streams: int, tokens: int) -> None:
    """Print the correlation of the gaps between tokens before and after the gateway."""
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(bare_server(spec_for(settings_of(llamacpp_parallel=4))))
        recorder = Recorder(engine)
        environ = {
            "MINER_API_KEYS": KEY, "LLM_BACKEND": "llamacpp", "MINER_SERVE_LOG": "off",
            "LLAMACPP_API_BASE": await stack.enter_async_context(recorder.running()) + "/v1",
        }  # fmt: skip
        with ExitStack() as inner:
            gateway = await asyncio.to_thread(inner.enter_context, targets.serving(environ))
            client = await stack.enter_async_context(Client(gateway.url))
            others = [asyncio.create_task(_disturb(engine, tokens // 4)) for _ in range(3)]
            correlations, delays = [], []
            for _ in range(streams):
                recorder.times.clear()
                await client.ask(tokens)
                before, behind = recorder.times, client.times
                if len(before) != len(behind):
                    raise SystemExit(f"{len(before)} pieces came from the engine and {len(behind)} from the gateway")
                gaps = [[b - a for a, b in pairwise(one)] for one in (before, behind)]
                correlations.append(statistics.correlation(*gaps))
                delays += [b - a for a, b in zip(before, behind, strict=True)]
            for other in others:
                other.cancel()
            await asyncio.gather(*others, return_exceptions=True)
    ranks = statistics.quantiles(delays, n=100)
    print(f"\nInter-token latency of {streams} streams of {tokens} tokens (load {os.getloadavg()[0]:.1f})\n")
    print(f"correlation of the gaps: median {statistics.median(correlations):.3f}, min {min(correlations):.3f}")
    print(f"from the engine to the client: median {ranks[49] * 1000:.2f} ms, 99th percentile {ranks[98] * 1000:.2f} ms")


async def _disturb(engine: str, tokens: int) -> None:
    """Short requests that bypass the gateway: they make the engine's latency uneven, as on a busy node."""
    async with Client(engine, **_SAMPLING) as client:
        while True:
            await client.ask(tokens)
            await asyncio.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=96, help="length of a generation")
    parser.add_argument("--at-once", type=int, default=16)
    args = parser.parse_args()

    async def run() -> None:
        await rate(args.rounds, args.tokens, args.at_once)
        await rhythm(5, args.tokens)

    asyncio.run(run())


if __name__ == "__main__":
    main()
