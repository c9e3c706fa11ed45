"""The llama.cpp engine through miner, compared with a bare client at the engine's own server.

    python -m bench.engine              all tables, on the demo model
    python -m bench.engine load many    some of: load, many, cold, slots

Both sides run the same engine with the same settings in processes of their own, one at a time; rounds are interleaved.
Every generation has the same length (`ignore_eos`), and prompts are unique.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from bench.engine_load import Ask, Bare, Wave, bare_server, prompt, service_of, settings_of, spec_for, wave
from miner.core.llms.llm_llamacpp import LlamaCppService

AT_ONCE = (1, 4, 16, 32)


def _head(title: str, columns: str) -> None:
    print(f"\n{title} (load {os.getloadavg()[0]:.1f})\n\n| {columns} |")
    print(f"|{'---|' * (columns.count('|') + 1)}", flush=True)


def _median(waves: list[Wave], of: str) -> float:
    return statistics.median(getattr(one, of) for one in waves)


async def _interleaved(
    sides: dict[str, Ask], rounds: int, requests: int, at_once: int, tokens: int
) -> dict[str, list[Wave]]:
    waves: dict[str, list[Wave]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            waves[name].append(await wave(sides[name], requests, at_once, tokens))
    return waves


async def load(rounds: int, tokens: int, slots: int) -> None:
    """Tokens per second and TTFT by concurrency."""
    settings = settings_of(llamacpp_parallel=slots)
    spec = spec_for(settings)
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(LlamaCppService(settings))
        bare = await stack.enter_async_context(Bare(await stack.enter_async_context(bare_server(spec))))
        sides = {"miner": service_of(service), "bare": bare.ask}
        await _interleaved(sides, 1, 4, 4, 8)
        title = f"{tokens} tokens each, {slots} slots, {rounds} rounds"
        _head(title, "concurrency | miner, tokens/s | bare, tokens/s | miner / bare | TTFT, miner | TTFT, bare")
        one: dict[str, float] = {}
        for at_once in AT_ONCE:
            requests = max(at_once, 3)
            waves = await _interleaved(sides, rounds, requests, at_once, tokens)
            rates = {name: _median(waves[name], "rate") for name in sides}
            one = one or rates
            ratio = statistics.median(a.rate / b.rate for a, b in zip(waves["miner"], waves["bare"], strict=True))
            gain = {name: f"{rates[name]:.0f} ({rates[name] / one[name]:.2f} x one)" for name in sides}
            first = {name: f"{_median(waves[name], 'first'):.2f} s" for name in sides}
            row = [at_once, gain["miner"], gain["bare"], f"{ratio:.2f}", first["miner"], first["bare"]]
            print(f"| {' | '.join(map(str, row))} |", flush=True)
    _bindings(spec.model_path, tokens)


def _bindings(model: Path, tokens: int) -> None:
    """llama-cpp-python's `Llama`, which runs one request at a time, if it is installed."""
    if importlib.util.find_spec("llama_cpp") is None:
        print("\nllama-cpp-python is not installed: no row for its `Llama`.")
        return
    script = (
        "import sys, time, llama_cpp\n"
        "llama = llama_cpp.Llama(sys.argv[1], n_ctx=1024, verbose=False)\n"
        "bias = {llama.token_eos(): -100.0}\n"
        "began = time.perf_counter()\n"
        "for i in range(16):\n"
        "    turn = {'role': 'user', 'content': f'Story {i}: tell me about the sea, please.'}\n"
        "    llama.create_chat_completion([turn], max_tokens=int(sys.argv[2]), top_k=0, min_p=0.0, logit_bias=bias)\n"
        "print(16 * int(sys.argv[2]) / (time.perf_counter() - began))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(model), str(tokens)], capture_output=True, text=True)
    print(f"\nllama-cpp-python's Llama, 16 requests: {done.stdout.strip() or done.stderr[-300:]} tokens/s")


async def many(prompts: int, tokens: int, slots: int, rounds: int) -> None:
    """`generate_many` compared with the engine's own throughput at the same concurrency."""
    settings = settings_of(llamacpp_parallel=slots)
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(LlamaCppService(settings))
        bare = await stack.enter_async_context(Bare(await stack.enter_async_context(bare_server(spec_for(settings)))))
        await _interleaved({"miner": service_of(service), "bare": bare.ask}, 1, 4, 4, 8)

        async def ours() -> float:
            began = time.perf_counter()
            texts = (prompt() for _ in range(prompts))
            async for _, text in service.generate_many(texts, max_tokens=tokens, extra={"ignore_eos": True}):
                if isinstance(text, Exception):
                    raise text
            return prompts * tokens / (time.perf_counter() - began)

        async def theirs() -> float:
            return (await wave(bare.ask, prompts, slots, tokens)).rate

        pairs = []
        for number in range(rounds):
            if number % 2:
                pairs.append((await ours(), await theirs()))
            else:
                pairs.append((await theirs(), await ours())[::-1])
        _head(f"generate_many: {prompts} prompts of {tokens} tokens, {slots} slots, {rounds} rounds",
              "miner, tokens/s | bare, tokens/s | miner / bare")  # fmt: skip
        mine, its = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(f"| {mine:.0f} | {its:.0f} | {statistics.median(a / b for a, b in pairs):.2f} |")


async def cold(rounds: int, slots: int) -> None:
    """Cold start: process start, model load and prefill up to the first token."""
    settings = settings_of(llamacpp_parallel=slots)
    spec = spec_for(settings)

    async def ours() -> float:
        began = time.perf_counter()
        async with LlamaCppService(settings) as service:
            async for chunk in service.stream(prompt(), max_tokens=4, extra={"ignore_eos": True}):
                if chunk.content:
                    return time.perf_counter() - began
        raise SystemExit("no token was generated")

    async def bare() -> float:
        began = time.perf_counter()
        async with bare_server(spec) as address, Bare(address) as client:
            ready = time.perf_counter() - began
            return ready + (await client.ask(4)).first

    pairs = [(await ours(), await bare()) for _ in range(rounds + 1)][1:]  # the first one fills the page cache
    _head(f"Cold start to the first token, {slots} slots, {rounds} rounds", "miner | bare | miner / bare")
    mine, its = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"| {mine:.2f} s | {its:.2f} s | {statistics.median(a / b for a, b in pairs):.2f} |")


async def sweep(rounds: int, tokens: int) -> None:
    """Throughput and TTFT at concurrency 1, 16 and 32, by slots and threads."""
    _head(f"Slots and threads: {tokens} tokens each, the bare engine",
          "slots | threads | tokens/s at 1 | tokens/s at 16 | TTFT at 16 | tokens/s at 32 | TTFT at 32")  # fmt: skip
    for threads in (1, 2):
        for slots in (1, 2, 4, 8, 16, 32):
            spec = spec_for(settings_of(llamacpp_parallel=slots, llamacpp_threads=threads))
            async with bare_server(spec) as address, Bare(address) as client:
                await wave(client.ask, 2, 2, 8)
                found = {n: [await wave(client.ask, max(n, 3), n, tokens) for _ in range(rounds)] for n in (1, 16, 32)}
            print(f"| {slots} | {threads} | {_median(found[1], 'rate'):.0f} | {_median(found[16], 'rate'):.0f} "
                  f"| {_median(found[16], 'first'):.2f} s | {_median(found[32], 'rate'):.0f} "
                  f"| {_median(found[32], 'first'):.2f} s |", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", help="of: load, many, cold, slots; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64, help="length of a generation")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--prompts", type=int, default=256, help="for `many`")
    args = parser.parse_args()
    tables: dict[str, Callable[[], Awaitable[None]]] = {
        "load": lambda: load(args.rounds, args.tokens, args.slots),
        "many": lambda: many(args.prompts, 16, args.slots, args.rounds),
        "cold": lambda: cold(args.rounds * 2, args.slots),
        "slots": lambda: sweep(1, args.tokens),
    }

    async def run() -> None:
        for name in args.tables or tables:
            await tables[name]()

    asyncio.run(run())


if __name__ == "__main__":
    main()
