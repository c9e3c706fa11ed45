"""The figures of a run, from what was seen of its requests."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from miner.cli.bench.measure import Measurement
from miner.cli.bench.objective import is_good
from miner.cli.bench.plan import PlannedRun
from miner.cli.bench.result import Goodput, Run, Sample, TimelinePoint, rounded
from miner.cli.bench.statistics import statistics_of

_INTERVALS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)
_MOST_POINTS = 120
_MESSAGE_LIMIT = 500


def summarize(
    planned: PlannedRun, seen: Sequence[Measurement], *, began: float, ended: float, objective: dict[str, float] | None,
    lag: Sequence[float], partial: bool,
) -> Run:  # fmt: skip
    """The run of these requests.

    Args:
        began: when the run did, on the clock of the measurements; `ended` likewise.
        lag: see `loop_lag`.
        partial: it was stopped before its end.
    """
    done = [each for each in seen if each.completed]
    cancelled = sum(each.cancelled for each in seen)
    duration = max(ended - began, 1e-9)
    output = sum(each.output_tokens for each in done)
    prompt = sum(each.prompt_tokens or 0 for each in done)
    cached = [each.cached_tokens for each in done if each.cached_tokens is not None]
    good = [verdict for each in seen if (verdict := is_good(each, objective)) is not None]
    examples: dict[str, str] = {}
    for each in seen:
        if each.code is not None:
            examples.setdefault(each.code, (each.message or "")[:_MESSAGE_LIMIT])
    run = Run(
        name=planned.name,
        concurrency=planned.concurrency,
        request_rate=planned.request_rate,
        prompt_length=planned.prompt_tokens,
        max_tokens=planned.max_tokens,
        round=planned.round,
        requests=len(seen),
        completed=len(done),
        failed=len(seen) - len(done) - cancelled,
        cancelled=cancelled,
        duration=duration,
        partial=partial,
        errors=dict(Counter(each.code for each in seen if each.code is not None).most_common()),
        error_examples=examples,
        ttft=statistics_of(_known(each.ttft for each in done if each.output_tokens)),
        tpot=statistics_of(_known(each.tpot for each in done)),
        itl=statistics_of([gap for each in done for gap in each.itl]),
        e2e=statistics_of(_known(each.e2e for each in done)),
        tokens_per_second=statistics_of([rate for each in done if (rate := _speed(each)) is not None]),
        queue=statistics_of(_known(each.queue for each in done)),
        prompt_tokens=statistics_of(_known(each.prompt_tokens for each in done)),
        output_tokens=statistics_of([each.output_tokens for each in done]),
        cached_tokens=sum(cached) if cached else None,
        request_throughput=len(done) / duration,
        output_throughput=output / duration,
        total_throughput=(output + prompt) / duration,
        goodput=Goodput(share=sum(good) / len(good), requests_per_second=sum(good) / duration) if good else None,
        loop_lag=statistics_of(lag),
        samples=[_sample(each, began, objective) for each in seen],
        timeline=timeline(seen, began=began, duration=duration),
    )
    return rounded(run)


def timeline(seen: Sequence[Measurement], *, began: float, duration: float) -> list[TimelinePoint]:
    """What went on in each interval of a run."""
    step = next((each for each in _INTERVALS if duration / each <= _MOST_POINTS), _INTERVALS[-1])
    points = [
        TimelinePoint(time=number * step, running=0, started=0, completed=0, failed=0, output_tokens=0)
        for number in range(max(1, math.ceil(duration / step)))
    ]

    def at(time: float) -> int:
        return min(len(points) - 1, max(0, int((time - began) / step)))

    _fill_running(points, seen, at)
    for each in seen:
        first, last = at(each.began), at(each.done)
        points[first].started += 1
        points[last].completed += each.completed
        points[last].failed += each.code is not None
        if each.times:
            per_chunk = each.output_tokens / len(each.times)
            carried = 0.0
            for time in each.times:  # whole tokens, though chunks may carry several, or the opening none
                carried += per_chunk
                points[at(time)].output_tokens += int(carried + 1e-6)
                carried -= int(carried + 1e-6)
    return points


def _fill_running(points: list[TimelinePoint], seen: Sequence[Measurement], at: Callable[[float], int]) -> None:
    """Most requests in flight at once in each interval."""
    changes = sorted([(each.began, 1) for each in seen] + [(each.done, -1) for each in seen])  # ends first
    running, place = 0, 0
    for time, change in changes:
        for later in range(place + 1, at(time) + 1):
            points[later].running = running
        place = at(time)
        running += change
        points[place].running = max(points[place].running, running)


def _sample(each: Measurement, began: float, objective: dict[str, float] | None) -> Sample:
    return Sample(
        start=each.began - began,
        ttft=each.ttft if each.output_tokens else None,
        e2e=each.e2e,
        tpot=each.tpot,
        output_tokens=each.output_tokens,
        prompt_tokens=each.prompt_tokens,
        cached_tokens=each.cached_tokens,
        queue=each.queue,
        turn=each.turn,
        max_tokens=each.max_tokens,
        cancelled=each.cancelled,
        error=each.code,
        good=is_good(each, objective),
    )


def _speed(each: Measurement) -> float | None:
    """Output tokens by E2E."""
    return each.output_tokens / each.e2e if each.e2e and each.output_tokens else None


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
