"""Results of a measurement that never was: a queue in front of an engine with a few slots, computed."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from typing import Any

from miner.cli.bench.result import Goodput, Machine, Result, Run, Sample, Target, TimelinePoint, Workload
from miner.cli.bench.statistics import statistics_of

_BIN = 0.5


def a_run(
    *,
    concurrency: int | None = 4,
    request_rate: float | None = None,
    requests: int = 64,
    slots: int = 8,
    step: float = 0.012,
    prompt: float = 0.08,
    noise: float = 0.15,
    max_tokens: int = 64,
    prompt_length: int = 128,
    failing: float = 0.0,
    cancelling: float = 0.0,
    objective: dict[str, float] | None = None,
    seed: int = 1,
    round: int = 1,
    keep: bool = True,
) -> Run:
    """A run whose requests wait for one of the slots, each slower the more are taken.

    Args:
        step: seconds a token takes with one slot taken.
        prompt: seconds that the prompt takes.
        noise: spread of both, as sigma of a lognormal.
        keep: whether the run has its samples.
    """
    rng = random.Random(f"{seed}-{round}-{concurrency}-{request_rate}")
    width = concurrency or 4 * slots
    running = [0.0] * min(width, slots)
    clients = [0.0] * width
    clock = 0.0
    samples = []
    for number in range(requests):
        if request_rate is not None:
            clock += rng.expovariate(request_rate)
            start = clock
        else:
            start = heapq.heappop(clients)
        free = max(start, heapq.heappop(running))
        tokens = rng.randint(max_tokens // 2, max_tokens)
        slowed = step * (1 + 0.12 * (len(running) - 1))
        gap = slowed * rng.lognormvariate(0, noise)
        first = free - start + prompt * rng.lognormvariate(0, noise) * (1 + 0.1 * (len(running) - 1))
        whole = first + gap * (tokens - 1)
        error = rng.choice(["overloaded", "stream_interrupted"]) if rng.random() < failing else None
        cancelled = error is None and rng.random() < cancelling
        end = start + (first if error or cancelled else whole)
        heapq.heappush(running, end)
        heapq.heappush(clients, end)
        sample = Sample(start=start, ttft=None if error else first, max_tokens=max_tokens, turn=number % 3)
        sample.error, sample.cancelled, sample.prompt_tokens = error, cancelled, prompt_length + 9
        if not error and not cancelled:
            sample.e2e, sample.tpot, sample.output_tokens = whole, gap, tokens
        if objective is not None and not cancelled:
            sample.good = error is None and all(
                (getattr(sample, name) or 0) <= most for name, most in objective.items()
            )
        samples.append(sample)
    done = [sample for sample in samples if sample.e2e is not None]
    gaps = [sample.tpot * rng.lognormvariate(0, 0.3) for sample in done for _ in range(sample.output_tokens - 1)]
    duration = max(sample.start + (sample.e2e or sample.ttft or 0.0) for sample in samples)
    errors = Counter(sample.error for sample in samples if sample.error)
    output = sum(sample.output_tokens for sample in done)
    judged = [sample.good for sample in samples if sample.good is not None]
    load = f"concurrency {concurrency}" if concurrency is not None else f"rate {request_rate:g}/s"
    run = Run(
        name=load if round == 1 else f"{load}, round {round}",
        concurrency=concurrency,
        request_rate=request_rate,
        prompt_length=prompt_length,
        max_tokens=max_tokens,
        round=round,
        requests=requests,
        completed=len(done),
        failed=sum(errors.values()),
        cancelled=sum(sample.cancelled for sample in samples),
        duration=duration,
        errors=dict(errors),
        error_examples={code: f"Example of {code}" for code in errors},
        ttft=statistics_of([sample.ttft for sample in done if sample.ttft is not None]),
        tpot=statistics_of([sample.tpot for sample in done if sample.tpot is not None]),
        itl=statistics_of(gaps),
        e2e=statistics_of([sample.e2e for sample in done if sample.e2e is not None]),
        tokens_per_second=statistics_of([sample.output_tokens / sample.e2e for sample in done if sample.e2e]),
        prompt_tokens=statistics_of([sample.prompt_tokens for sample in done]),
        output_tokens=statistics_of([sample.output_tokens for sample in done]),
        request_throughput=len(done) / duration,
        output_throughput=output / duration,
        total_throughput=(output + (prompt_length + 9) * len(done)) / duration,
        samples=samples if keep else [],
        timeline=_timeline(samples, duration),
    )
    if judged:
        run.goodput = Goodput(share=sum(judged) / len(judged), requests_per_second=sum(judged) / duration)
    return run


def a_result(runs: list[Run] | None = None, *, engine: str = "llama.cpp b7204", **settings: Any) -> Result:
    """A result of such runs."""
    runs = [a_run(concurrency=each) for each in (1, 4, 16)] if runs is None else runs
    values: dict[str, Any] = {
        "created": "2026-11-28T21:00:00Z",
        "command": "miner bench --url http://127.0.0.1:8000 --model smollm2 --concurrency 1,4,16 --requests 64",
        "target": Target(url="http://127.0.0.1:8000", backend="openai", model="smollm2-135m-instruct", engine=engine),
        "machine": Machine(
            cpu="AMD EPYC 9B14", cores=8, memory=64 * 2**30, gpus=["NVIDIA H100 80GB"], os="Linux 6.8", python="3.12.3"
        ),
        "workload": Workload(
            prompt_tokens=sorted({run.prompt_length for run in runs}) or [128],
            max_tokens=sorted({run.max_tokens for run in runs}) or [64],
            requests=64,
            warmup=2,
        ),
        "runs": runs,
    }
    return Result(**(values | settings))


def _timeline(samples: list[Sample], duration: float) -> list[TimelinePoint]:
    points = [
        TimelinePoint(time=index * _BIN, running=0, started=0, completed=0, failed=0, output_tokens=0)
        for index in range(int(duration / _BIN) + 1)
    ]
    for sample in samples:
        end = sample.start + (sample.e2e or sample.ttft or 0.0)
        points[int(sample.start / _BIN)].started += 1
        for index in range(int(sample.start / _BIN), int(end / _BIN) + 1):
            points[index].running += 1
        last = points[int(end / _BIN)]
        last.failed += sample.error is not None
        last.completed += sample.e2e is not None
        for number in range(sample.output_tokens):
            at = sample.start + (sample.ttft or 0.0) + number * (sample.tpot or 0.0)
            points[int(min(at, duration) / _BIN)].output_tokens += 1
    return points
