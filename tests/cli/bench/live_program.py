"""A program that shows a measurement of two runs which it invents, and prints how late its event loop was."""

import argparse
import asyncio
import sys
import time

from miner.cli.bench.report.live import shown
from miner.cli.bench.result import Run, Sample
from miner.cli.bench.statistics import statistics_of
from miner.cli.verbosity import apply


def _run(name, requests, seconds):
    """What came of such a run, of which every eighth request fails."""
    failed = (requests + 2) // 8
    return Run(
        name=name, prompt_length=1, max_tokens=40, requests=requests, completed=requests - failed, failed=failed,
        duration=seconds, errors={"overloaded": failed} if failed else {}, ttft=statistics_of([0.05]),
        request_throughput=1.0, output_throughput=321.0, total_throughput=400.0,
    )  # fmt: skip


async def _request(progress, number, seconds):
    progress.request_started()
    ttft = 0.02 + 0.001 * number
    await asyncio.sleep(ttft)
    for _ in range(8):
        progress.tokens(5)
        await asyncio.sleep(seconds / 10)
    if number % 8 == 5:
        progress.request_finished(Sample(start=0.0, ttft=ttft, error="overloaded"))
    else:
        progress.request_finished(Sample(start=0.0, ttft=ttft, e2e=ttft + seconds, output_tokens=40))


async def _lags(late):
    """By the processor's time that this process had meanwhile: other processes make it no longer."""
    while True:
        began = time.process_time()
        await asyncio.sleep(0.001)
        late.append(time.process_time() - began)


async def _measure(requests, seconds, mode):
    apply(argparse.Namespace(quiet=mode == "quiet"))
    late = []
    watch = asyncio.create_task(_lags(late))
    with shown(2) as progress:
        for concurrency in (2, 4):
            run = _run(f"concurrency {concurrency}", requests, seconds)
            progress.run_started(run, requests)
            for first in range(0, requests, concurrency):
                await asyncio.gather(
                    *(_request(progress, first + each, seconds) for each in range(min(concurrency, requests - first)))
                )
            progress.run_finished(run)
    watch.cancel()
    late.sort()
    print(f"lag p50 {1000 * late[len(late) // 2]:.3f} ms p99 {1000 * late[len(late) * 99 // 100]:.3f} ms")


asyncio.run(_measure(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]))
