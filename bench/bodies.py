"""How long large bodies block the gateway's event loop, with memory and time.

    python -m bench.bodies                 the table (about a minute)
    python -m bench.bodies --size 31e6 --only "an image"

The gateway runs in this process over a backend that responds immediately; another process sends the bodies. Target: a
pause of at most 50 ms of this process's CPU time, since wall time includes other load on the machine. `msgspec, ms` is
the CPU time of decoding the same body without limits.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import multiprocessing
import resource
import statistics
import time
from typing import Any

import msgspec

from tests.gateway.bodies import KINDS, watched
from tests.gateway.serving import config, serving
from tests.gateway.test_request_body import Echo


def _send(port: int, path: str, kind: str, size: int, pipe: Any) -> None:
    body = KINDS[kind][1](size)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    pipe.send("ready")
    pipe.recv()
    began = time.perf_counter()
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    pipe.send((answer.status, time.perf_counter() - began))


def _decode(kind: str, size: int, pipe: Any) -> None:
    body = KINDS[kind][1](size)
    began = time.thread_time()
    with contextlib.suppress(msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        msgspec.json.decode(body)
    pipe.send(time.thread_time() - began)


async def _measured(port: int, path: str, kind: str, size: int, context: Any) -> tuple[float, float, int, float]:
    ours, theirs = context.Pipe()
    process = context.Process(target=_send, args=(port, path, kind, size, theirs))
    process.start()
    await asyncio.to_thread(ours.recv)
    async with watched() as lag:
        ours.send("go")
        status, seconds = await asyncio.to_thread(ours.recv)
    await asyncio.to_thread(process.join)
    return lag.cpu, lag.wall, status, seconds


async def _main(size: int, kinds: list[str], rounds: int) -> None:
    context = multiprocessing.get_context("spawn")
    print(f"Bodies of {size / 1e6:.0f} MB, median (max) of {rounds} rounds\n")
    print("| body | status | pause, CPU ms | pause, wall ms | seconds | msgspec, ms |\n|---|---|---|---|---|---|")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with serving(Echo(config(default_model="m")), serve_log="off") as served:
        port = int(served.url.rpartition(":")[2])
        for kind in kinds:
            path = KINDS[kind][0]
            found = [await _measured(port, path, kind, size, context) for _ in range(rounds)]
            cpu = [1000 * one[0] for one in found]
            wall = [1000 * one[1] for one in found]
            ours, theirs = context.Pipe()
            process = context.Process(target=_decode, args=(kind, size, theirs))
            process.start()
            decode = await asyncio.to_thread(ours.recv)
            await asyncio.to_thread(process.join)
            print(
                f"| {kind} | {found[0][2]} | {statistics.median(cpu):.0f} ({max(cpu):.0f}) | "
                f"{statistics.median(wall):.0f} ({max(wall):.0f}) | {statistics.median(one[3] for one in found):.2f} | "
                f"{1000 * decode:.0f} |", flush=True,
            )  # fmt: skip
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"\nPeak memory growth: {grown:.0f} MB")


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=float, default=31e6, help="bytes of each body")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only", action="append", choices=list(KINDS), metavar="KIND", help="may be repeated; default: all"
    )
    args = parser.parse_args()
    asyncio.run(_main(int(args.size), args.only or list(KINDS), args.rounds))


if __name__ == "__main__":
    main()
