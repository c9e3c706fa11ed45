"""CPU per streamed chunk and per request: miner and other clients in one run.

    python bench/env.py                 once: the environments of the clients
    python -m bench.clients             the tables
    python -m bench.clients --profile stream     where miner's time goes

A loopback server sends recorded responses as fast as it can to 16 concurrent requests. Each client has its own process
and environment; rounds are interleaved, so that other load affects all alike. Reported are medians, and medians of the
ratios within the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from bench.env import ROOT, python_of

AT_ONCE = 16


class Case:
    """One row of a table: a client and its work. `weight`: a round has this many times 16 requests."""

    def __init__(self, client: str, work: str, label: str, weight: int) -> None:
        self.client, self.work, self.label, self.weight = client, work, label, weight


STREAM = [
    Case("bare", "stream", "bare aiohttp + orjson, line by line", 8),
    Case("bare", "stream by read", "bare aiohttp + orjson, split by read", 8),
    Case("miner", "stream", "miner: VLLMService.stream", 8),
    Case("miner", "stream batches", "miner: stream(...).batches()", 8),
    Case("openai", "stream", "openai SDK", 2),
    Case("any-llm", "stream", "any-llm", 2),
    Case("litellm", "stream", "LiteLLM", 1),
]
KINDS = [
    Case("miner", "stream", "text", 8),
    Case("miner", "stream tools", "tool call", 8),
    Case("miner", "stream schema", "JSON Schema", 8),
]
OLLAMA = [
    Case("bare", "ollama stream", "bare aiohttp + orjson, line by line", 8),
    Case("bare", "ollama stream by read", "bare aiohttp + orjson, split by read", 8),
    Case("miner", "ollama stream", "miner: OllamaService.stream", 8),
    Case("miner", "ollama stream batches", "miner: stream(...).batches()", 8),
    Case("ollama", "ollama stream", "ollama package", 2),
]
CHAT = [
    Case("bare", "chat", "bare aiohttp + orjson", 40),
    Case("miner", "chat", "miner: VLLMService.chat_completion", 40),
    Case("openai", "chat", "openai SDK", 8),
    Case("any-llm", "chat", "any-llm", 8),
    Case("litellm", "chat", "LiteLLM", 4),
]
OLLAMA_CHAT = [
    Case("bare", "ollama chat", "bare aiohttp + orjson", 40),
    Case("miner", "ollama chat", "miner: OllamaService.chat_completion", 40),
    Case("ollama", "ollama chat", "ollama package", 8),
]
TABLES: dict[str, tuple[str, list[Case], bool]] = {
    "stream": ("One streamed chunk, vLLM's events", STREAM, True),
    "kinds": ("One streamed chunk by kind of response", KINDS, True),
    "ollama": ("One streamed chunk, Ollama's lines", OLLAMA, True),
    "chat": ("One non-streaming request, vLLM", CHAT, False),
    "ollama-chat": ("One non-streaming request, Ollama", OLLAMA_CHAT, False),
}


class Client:
    """A worker process."""

    def __init__(self, name: str, url: str) -> None:
        environment = "miner" if name in ("bare", "miner") else name
        self.process = subprocess.Popen(
            [python_of(environment), "-m", "bench.worker", name, url],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("A client process exited; see its error above.")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def round(self, work: str, requests: int) -> dict[str, Any]:
        assert self.process.stdin is not None
        order = {"work": work, "requests": requests, "at_once": AT_ONCE}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


@contextmanager
def replay_server(chunks: int, burst: int = 1, pace: float = 0.0) -> Iterator[str]:
    """Address of a running replay server."""
    process = subprocess.Popen(
        [python_of("miner"), "-m", "bench.replay_server",
         "--chunks", str(chunks), "--burst", str(burst), "--pace", str(pace)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.stdin.close()
        process.wait(30)


def measure(cases: list[Case], clients: dict[str, Client], rounds: int, units: int) -> dict[str, list[float]]:
    """Microseconds of CPU per unit, one number per round, by label. `units`: number in one request."""
    costs: dict[str, list[float]] = defaultdict(list)
    lengths: dict[str, int] = {}
    for number in range(rounds + 1):
        # Each round starts with another client.
        for case in cases[number % len(cases) :] + cases[: number % len(cases)]:
            requests = AT_ONCE * (case.weight if number else 1)
            done = clients[case.client].round(case.work, requests)
            assert len(done["counts"]) == 1, f"{case.label}: the responses differ: {done['counts']}"
            lengths[case.label] = done["counts"][0]
            if number:  # the first one warms up
                costs[case.label].append(done["cpu"] / requests / units * 1e6)
    if len({case.work.partition("stream ")[2] for case in cases} & {"tools", "schema"}) == 0:
        assert len(set(lengths.values())) == 1, f"the clients read different text: {lengths}"
    return costs


def show(title: str, cases: list[Case], costs: dict[str, list[float]]) -> None:
    ours = next(case.label for case in cases if case.client == "miner")
    first = cases[0].label
    print(f"\n{title}\n")
    print(f"| client | CPU, us | vs. {'text' if first == ours else 'bare loop'} | vs. miner |")
    print("|---|---|---|---|")
    for case in cases:
        own = costs[case.label]
        to_first = statistics.median(a / b for a, b in zip(own, costs[first], strict=True))
        cheaper = statistics.median(a / b for a, b in zip(own, costs[ours], strict=True))
        quartiles = statistics.quantiles(own, n=4) if len(own) > 1 else [own[0]] * 3
        cost = f"{statistics.median(own):.2f} ({quartiles[0]:.2f} to {quartiles[2]:.2f})"
        print(f"| {case.label} | {cost} | {to_first:.2f} | {f'{cheaper:.1f}' if case.client != 'miner' else ''} |")


def profile(work: str, chunks: int, burst: int, pace: float) -> None:
    """CProfile of ours."""
    script = (
        "import asyncio, cProfile, contextlib, pstats, sys\n"
        "from bench import worker\n"
        "async def main():\n"
        "    stack = contextlib.AsyncExitStack()\n"
        "    work = (await worker.miner(sys.argv[1], stack))[sys.argv[2]]\n"
        "    await worker._round(work, 16, 16)\n"
        "    profiler = cProfile.Profile(); profiler.enable()\n"
        "    await worker._round(work, 16 * int(sys.argv[3]), 16)\n"
        "    profiler.disable(); pstats.Stats(profiler).sort_stats('tottime').print_stats(45)\n"
        "    await stack.aclose()\n"
        "asyncio.run(main())\n"
    )
    weight = "40" if "chat" in work else "8"
    with replay_server(chunks, burst, pace) as url:
        subprocess.run([python_of("miner"), "-c", script, url, work, weight], cwd=ROOT, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", help=f"of: {', '.join(TABLES)}; default: all")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--chunks", type=int, default=256, help="chunks of text per stream")
    parser.add_argument("--burst", type=int, default=1, help="chunks per write of the server")
    parser.add_argument("--pace", type=float, default=0.0, help="milliseconds between writes to one client")
    parser.add_argument("--only", nargs="*", help="only these clients, such as: bare miner")
    parser.add_argument("--profile", metavar="WORK", help='cProfile of miner doing this, such as "stream" or "chat"')
    args = parser.parse_args()
    if args.profile:
        profile(args.profile, args.chunks, args.burst, args.pace)
        return
    names = args.tables or list(TABLES)
    tables = [(title, [c for c in cases if not args.only or c.client in args.only], streamed)
              for title, cases, streamed in (TABLES[name] for name in names)]  # fmt: skip
    with ExitStack() as stack:
        url = stack.enter_context(replay_server(args.chunks, args.burst, args.pace))
        clients: dict[str, Client] = {}
        for _, cases, _ in tables:
            for case in cases:
                if case.client not in clients:
                    clients[case.client] = client = Client(case.client, url)
                    stack.callback(client.close)
        pace = f"one write each {args.pace:g} ms" if args.pace else "as fast as it goes"
        print(f"{AT_ONCE} requests at once, {args.chunks} chunks a stream, {args.burst} in one write, {pace}, "
              f"{args.rounds} rounds; Python {sys.version.split()[0]}, load {os.getloadavg()[0]:.1f}")  # fmt: skip
        for title, cases, streamed in tables:
            show(title, cases, measure(cases, clients, args.rounds, args.chunks if streamed else 1))
        print(f"\nLoad at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
