"""Overhead of `miner serve`, a bare relay, vllm-router and LiteLLM's proxy, in one run on loopback.

    python -m bench.gateway --install      once: environments of the others, in bench/.env
    python -m bench.gateway                the tables (about 6 minutes)
    python -m bench.gateway --only miner,relay --connections 16

Each server is one process in front of the same replay server; the load comes from `wrk` (Debian: apt-get install wrk),
one thread. Rounds of a few seconds are interleaved, so that other load affects all alike; reported are medians. CPU is
that of the server's process (user and kernel) per request or streamed chunk received by wrk.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from urllib.parse import urlsplit

from bench import targets
from bench.env import DIRECTORY, ROOT
from bench.targets import KEY, MODEL, Target

CHUNKS = 128
"""Chunks of text per stream."""
EVENTS = CHUNKS + 4
"""Events per stream: with the role, the finish reason, the usage and [DONE]."""
MAKERS: dict[str, Callable[[Target], AbstractContextManager[Target]]] = {
    "direct": targets.direct,
    "relay": targets.relay,
    "miner": targets.miner,
    "router": targets.router,
    "litellm": targets.litellm,
}
PACKAGES = {"router": "vllm-router==0.1.17", "litellm-proxy": "litellm[proxy]"}
_INSTALL_SECONDS = 180


class Round:
    """Results of one round of wrk."""

    def __init__(self, words: list[str], cpu: float, rss: float, stream_bytes: int) -> None:
        done, received, self.duration_us, status, broken, late, _fastest, self.median, self.slow, _slowest = map(
            int, words
        )
        # wrk counts complete responses; bytes include those that the end of the round interrupts.
        self.count = received / stream_bytes if stream_bytes else float(done)
        self.errors = status + broken + late
        self.cpu, self.rss = cpu, rss

    @property
    def rate(self) -> float:
        """Responses per second."""
        return self.count / (self.duration_us / 1e6)

    @property
    def cost_us(self) -> float:
        """Microseconds of CPU per response."""
        return self.cpu * 1e6 / self.count if self.count else float("nan")


Rounds = dict[tuple[str, str, int], list[Round]]


def install() -> None:
    """Create the environments of the others; one that takes over three minutes is skipped with a message."""
    uv = shutil.which("uv") or "uv"
    for name, package in PACKAGES.items():
        directory = DIRECTORY / name
        try:
            subprocess.run([uv, "venv", "-q", "--allow-existing", "--python", sys.executable, directory], check=True)
            command = [uv, "pip", "install", "-q", "--python", str(directory / "bin/python"), package]
            subprocess.run(command, check=True, timeout=_INSTALL_SECONDS)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"{package}: skipped, not installed: {error}")


def body_of(kind: str) -> bytes:
    """The request that wrk/chat.lua sends."""
    stream = "true" if kind == "stream" else "false"
    message = '{"role":"user","content":"What is the capital of France?"}'
    return f'{{"model":"{MODEL}","messages":[{message}],"max_tokens":512,"stream":{stream}}}'.encode()


def probe(target: Target, kind: str) -> tuple[float, int]:
    """Seconds to the first byte of the body, and bytes of the response, on a new connection."""
    url = urlsplit(target.url)
    body = body_of(kind)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    with socket.create_connection((url.hostname or "", url.port or 0), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begun = time.perf_counter()
        connection.sendall(head + body)
        data = b""
        first = 0.0
        while True:
            piece = connection.recv(65536)
            if not piece:
                raise RuntimeError(f"{target.name} closed the connection during a response")
            data += piece
            _, gap, rest = data.partition(b"\r\n\r\n")
            if not first and rest:
                first = time.perf_counter() - begun
            if kind == "stream" and rest.endswith(b"\r\n0\r\n\r\n"):
                return first, len(data)
            if kind == "non-streaming" and gap and rest:
                return first, len(data)


def wrk(target: Target, kind: str, connections: int, seconds: int, stream_bytes: int) -> Round:
    """One round."""
    before = target.cpu()
    command = [
        "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", "bench/wrk/chat.lua", target.url,
        "--", kind, KEY, MODEL,
    ]  # fmt: skip
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + 60, check=True)
    rss = target.rss()
    time.sleep(0.2)  # interrupted responses are dropped
    result = next(line for line in ran.stdout.splitlines() if line.startswith("RESULT "))
    return Round(result.split()[1:], target.cpu() - before, rss, stream_bytes if kind == "stream" else 0)


def measure(present: list[Target], levels: list[int], rounds: int, seconds: int) -> Rounds:
    """All rounds, interleaved within each number of connections."""
    sizes = {target.name: statistics.median_low([probe(target, "stream")[1] for _ in range(5)]) for target in present}
    seen: Rounds = defaultdict(list)
    for connections in levels:
        for number in range(rounds + 2 * (connections == 16)):  # the targets are for 16: two more rounds
            # Rotate the order, so that no server is always the first.
            shift = number % len(present)
            for kind in ("non-streaming", "stream"):
                for target in present[shift:] + present[:shift]:
                    one = wrk(target, kind, connections, seconds, sizes[target.name])
                    seen[target.name, kind, connections].append(one)
        print(f"{connections} connections: done, load average {load_average()}", file=sys.stderr)
    return seen


def load_average() -> str:
    """The load averages of 1, 5 and 15 minutes."""
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def median(rounds: list[Round], value: str) -> float:
    """The median over rounds."""
    return statistics.median(float(getattr(one, value)) for one in rounds)


def ratios(seen: Rounds, kind: str, connections: int, value: str, name: str, other: str) -> list[float]:
    """Ratios of two servers within each round: other load affects both alike."""
    ours, theirs = seen.get((name, kind, connections), []), seen.get((other, kind, connections), [])
    pairs = [(getattr(mine, value), getattr(its, value)) for mine, its in zip(ours, theirs, strict=False)]
    return sorted(mine / its for mine, its in pairs if its)


def tables(seen: Rounds, present: list[Target], levels: list[int]) -> None:
    """Print the results as Markdown."""
    for kind, each, per in (("stream", "chunk", EVENTS), ("non-streaming", "request", 1)):
        rate = "streams/s, chunks/s" if kind == "stream" else "requests/s"
        print(f"\n| {kind} | conn. | {rate} | CPU us per {each} | p50 ms | p99 ms | RSS MB | errors |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        for connections in levels:
            for target in present:
                rounds = seen[target.name, kind, connections]
                replies = median(rounds, "rate")
                speed = f"{replies:,.0f}, {replies * EVENTS:,.0f}" if kind == "stream" else f"{replies:,.0f}"
                print(
                    f"| {target.name} | {connections} | {speed} | {median(rounds, 'cost_us') / per:.1f} "
                    f"| {median(rounds, 'median') / 1000:.1f} | {median(rounds, 'slow') / 1000:.1f} "
                    f"| {median(rounds, 'rss'):.0f} | {sum(one.errors for one in rounds)} |"
                )


def first_bytes(present: list[Target], samples: int) -> None:
    """Print the time to the first byte without load, each on a new connection, and what the gateway adds."""
    seen: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(samples):
        for target in present:
            for kind in ("stream", "non-streaming"):
                seen[target.name, kind].append(probe(target, kind)[0] * 1000)
    print("\n| time to first byte, ms | stream | added | non-streaming | added |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for target in present:
        cells = []
        for kind in ("stream", "non-streaming"):
            here = statistics.median(seen[target.name, kind])
            cells.append(f"{here:.2f} | {here - statistics.median(seen[present[0].name, kind]):.2f}")
        print(f"| {target.name} | {' | '.join(cells)} |")


def verdicts(seen: Rounds) -> None:
    """Print the results against the targets."""
    me, base, rust, python = "miner serve", "bare relay", "vllm-router", "LiteLLM proxy"
    rows = [
        ("streams/s vs. vllm-router", "stream", "rate", rust, 1.7, True),
        ("CPU per chunk vs. vllm-router", "stream", "cost_us", rust, 0.75, False),
        ("CPU per chunk vs. bare relay", "stream", "cost_us", base, 2.0, False),
        ("CPU per request vs. bare relay", "non-streaming", "cost_us", base, 1.7, False),
        ("requests/s vs. LiteLLM", "non-streaming", "rate", python, 30.0, True),
        ("memory vs. vllm-router", "stream", "rss", rust, 1.0, False),
    ]
    print("\n| `miner serve` at 16 connections | median | min to max | target | |")
    print("| --- | ---: | ---: | ---: | --- |")
    for label, kind, value, other, target, least in rows:
        each = ratios(seen, kind, 16, value, me, other)
        if each:
            found = statistics.median(each)
            met = found >= target if least else found <= target
            bound = f"{'at least' if least else 'at most'} {target:g} | {'met' if met else 'MISSED'}"
            print(f"| {label} | {found:.2f} | {each[0]:.2f} to {each[-1]:.2f} | {bound} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="create the environments of the others and exit")
    parser.add_argument("--only", default=",".join(MAKERS), help="servers, separated by commas")
    parser.add_argument("--connections", default="1,16,64,256", help="separated by commas")
    parser.add_argument("--rounds", type=int, default=2, help="rounds per server and number of connections")
    parser.add_argument("--seconds", type=int, default=3, help="duration of a round")
    parser.add_argument("--samples", type=int, default=60, help="samples of the time to the first byte")
    parser.add_argument("--burst", type=int, default=1, help="chunks per write of the upstream")
    args = parser.parse_args()
    if args.install:
        install()
        return
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is missing: apt-get install wrk")
    levels = [int(word) for word in args.connections.split(",")]
    makers = [MAKERS[name] for name in args.only.split(",")]
    with ExitStack() as stack:
        upstream = stack.enter_context(targets.replay(CHUNKS, args.burst))
        present = []
        for make in makers:
            try:
                present.append(stack.enter_context(make(upstream)))
            except (RuntimeError, OSError) as error:
                print(f"skipped: {error}")
        print(f"load average before: {load_average()}; {args.seconds} s rounds; bursts of {args.burst}")
        first_bytes(present, args.samples)
        seen = measure(present, levels, args.rounds, args.seconds)
        tables(seen, present, levels)
        verdicts(seen)
        print(f"\nload average after: {load_average()}")


if __name__ == "__main__":
    main()
