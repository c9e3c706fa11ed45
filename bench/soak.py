"""A million streamed chunks through `miner serve` at 64 connections: memory growth, errors, file descriptor leaks.

    python -m bench.soak                      about a minute
    python -m bench.soak --chunks 10000000

Warm-up is a tenth of the chunks. Exits with 1 if memory grew by 5 per cent or more, a request failed, or file
descriptors leaked.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack

from bench import targets
from bench.gateway import CHUNKS, EVENTS, load_average, probe, wrk
from bench.targets import Target

CONNECTIONS = 64
_MOST_GROWTH = 0.05
_ROUND_SECONDS = 3
_CLOSING_SECONDS = 15.0
"""Time for closed client connections to be noticed, and for idle engine connections to expire."""


def settled_files(target: Target, expected: int) -> int:
    """Number of open descriptors, once it is as expected, or after a while."""
    deadline = time.monotonic() + _CLOSING_SECONDS
    while (found := target.open_files()) > expected and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def load(target: Target, chunks: int, deadline: float) -> tuple[float, int]:
    """Run rounds up to this many chunks or the deadline; return chunks and errors."""
    size = probe(target, "stream")[1]
    done, errors = 0.0, 0
    while done < chunks and time.monotonic() < deadline:
        one = wrk(target, "stream", CONNECTIONS, _ROUND_SECONDS, size)
        done += one.count * EVENTS
        errors += one.errors
        print(f"  {done:12,.0f} chunks, {errors} errors, RSS {target.rss():.1f} MB", flush=True)
    return done, errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=1_000_000)
    parser.add_argument("--limit", type=float, default=600.0, help="seconds at most")
    args = parser.parse_args()
    deadline = time.monotonic() + args.limit
    with ExitStack() as stack:
        upstream = stack.enter_context(targets.replay(CHUNKS))
        target = stack.enter_context(targets.miner(upstream))
        print(f"load average: {load_average()}")
        warm, warm_errors = load(target, args.chunks // 10, deadline)
        # Connections to the engine are reused: those of the warm-up are the baseline.
        files = settled_files(target, 0)
        before = target.rss()
        done, errors = load(target, args.chunks, deadline)
        after, left = target.rss(), settled_files(target, files)
    growth = after / before - 1
    print(f"warm-up: {warm:,.0f} chunks, {warm_errors} errors, RSS {before:.1f} MB, {files} open files")
    print(f"soak:    {done:,.0f} chunks, {errors} errors, RSS {after:.1f} MB ({growth:+.1%}), {left} open files")
    failed = done < args.chunks or warm_errors or errors or growth >= _MOST_GROWTH or left > files
    print("failed" if failed else "passed")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
