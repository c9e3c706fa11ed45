"""What large bodies cost the others: the longest pause of the gateway's event loop, its memory, and the time.

    python -m bench.bodies                 the table (about a minute)
    python -m bench.bodies --size 31e6 --only "an image"

The gateway runs in this process over a backend that answers at once; bodies are sent from another process, so that the
loop does nothing but serve. The target is a pause of 50 ms at most, counted in the CPU that this process had meanwhile,
since others on the machine prolong the time by the clock; the column `alone` is the CPU that msgspec takes to
decode the same body, unbounded.
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


def _alone(kind: str, size: int, pipe: Any) -> None:
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
    print(f"Bodies of {size / 1e6:.0f} MB, median (worst) of {rounds} rounds\n")
    print("| what is large | status | pause, CPU ms | pause, ms | seconds | alone, ms |\n|---|---|---|---|---|---|")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with serving(Echo(config(default_model="m")), serve_log="off") as served:
        port = int(served.url.rpartition(":")[2])
        for kind in kinds:
            path = KINDS[kind][0]
            found = [await _measured(port, path, kind, size, context) for _ in range(rounds)]
            cpu = [1000 * one[0] for one in found]
            wall = [1000 * one[1] for one in found]
            ours, theirs = context.Pipe()
            process = context.Process(target=_alone, args=(kind, size, theirs))
            process.start()
            alone = await asyncio.to_thread(ours.recv)
            await asyncio.to_thread(process.join)
            print(
                f"| {kind} | {found[0][2]} | {statistics.median(cpu):.0f} ({max(cpu):.0f}) | "
                f"{statistics.median(wall):.0f} ({max(wall):.0f}) | {statistics.median(one[3] for one in found):.2f} | "
                f"{1000 * alone:.0f} |", flush=True,
            )  # fmt: skip
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"\nThe process grew by {grown:.0f} MB at most.")


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=float, default=31e6, help="bytes of each body")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=list(KINDS), metavar="KIND", help="again for more; all")
    args = parser.parse_args()
    asyncio.run(_main(int(args.size), args.only or list(KINDS), args.rounds))


if __name__ == "__main__":
    main()
