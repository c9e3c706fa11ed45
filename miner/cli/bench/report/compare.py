"""A measurement compared with another: each figure's ratio, and whether the difference can be told from chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct, structs

from miner.cli.bench.report.figures import LATENCIES, Latency, completed, in_order, load, rounds, title
from miner.cli.bench.report.ratio import (
    CONFIDENCE,
    Ratio,
    chance,
    mean_ratio,
    quantile_ratio,
    rounds_ratio,
    share_ratio,
)
from miner.cli.bench.result import Result, Run
from miner.cli.parser import UsageError

Verdict = Literal["better", "worse", "no_difference", "unknown"]
Spread = Literal["rounds", "requests"]

_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
_RATES = {
    "output_throughput": "tokens/s",
    "request_throughput": "requests/s",
    "goodput": "goodput/s",
}
SHOWN = ("output_throughput", "goodput", "ttft.p50", "ttft.p99", "tpot.p50", "tpot.p99", "itl.p50", "itl.p99",
         "e2e.p50", "e2e.p99")  # fmt: skip
"""Figures that are shown and bounded; the JSON has all."""


_NO_MATTER = ("tokens_counted_by", "requests", "duration", "warmup", "seed")
"""Of the workload: how long it was measured, and with which random words."""

_LENGTHS = ("prompt_tokens", "max_tokens")


class Difference(Struct, frozen=True):
    """Something about two measurements that is not alike."""

    what: str
    base: str
    new: str
    workload: bool
    """It changes the work, so that figures cannot be compared; else it is what is compared."""


class Row(Struct, frozen=True):
    """One figure of one load in both measurements."""

    run: str
    figure: str
    """Such as `ttft.p99`."""
    words: str
    better: Literal["lower", "higher"]
    base: float
    new: float
    ratio: float
    """New by base."""
    low: float | None
    """The interval of the ratio; None: not bounded on this side."""
    high: float | None
    spread: Spread | None
    """What the interval was made of; None: there is none."""
    verdict: Verdict

    @property
    def worsened(self) -> float:
        """By which share it is worse; below 0: better."""
        return self.ratio - 1 if self.better == "lower" else 1 - self.ratio


class Failures(Struct, frozen=True):
    """The failed requests of one load."""

    run: str
    base_failed: int
    base_requests: int
    new_failed: int
    new_requests: int
    chance: float
    """Of shares as unlike as these if nothing had changed (Fisher's exact test)."""
    verdict: Verdict


class Comparison(Struct, frozen=True):
    """What came of comparing."""

    base: str
    new: str
    differences: list[Difference]
    rows: list[Row]
    failures: list[Failures]
    base_only: list[str]
    """Loads that only the base has."""
    new_only: list[str]
    notes: list[str]
    """On the comparison."""
    base_notes: list[str]
    """On the measurement."""
    new_notes: list[str]
    confidence: float = CONFIDENCE

    @property
    def alike(self) -> bool:
        """Whether both did the same work."""
        return not any(each.workload for each in self.differences)

    def above(self, bound: float) -> list[Row | Failures]:
        """What is worse by more than a share, for sure; of failed requests, whatever is more for sure."""
        rows = [
            row
            for row in self.rows
            if row.figure in SHOWN and row.verdict == "worse" and row.worsened > bound
        ]  # fmt: skip
        return [*rows, *(each for each in self.failures if each.verdict == "worse")]


def compare(base: Result, new: Result, *, names: tuple[str, str] = ("base", "new")) -> Comparison:
    """Compare the loads that both have.

    Args:
        names: what both are called, such as their files.

    Raises:
        UsageError: they have no load in common.
    """
    pairs, base_only, new_only = _pairs(base, new)
    if not pairs:
        had = [", ".join(dict.fromkeys(map(load, result.runs))) or "none" for result in (base, new)]
        raise UsageError(
            f"{names[0]} and {names[1]} have no load in common: {had[0]}; {had[1]}.",
            operator_hint="Measure both with the same --concurrency or --request-rate.",
        )
    rows, failures, notes = [], [], []
    for name, old_runs, new_runs in pairs:
        rows += _rows(name, old_runs, new_runs)
        failures.append(_failures(name, old_runs, new_runs))
    if any(row.spread == "requests" for row in rows):
        notes.append(
            "The intervals know the spread between requests of one round, not that between rounds: "
            "`--rounds 5` measures that too."
        )
    if any(run.partial for result in (base, new) for run in result.runs):
        notes.append("A run was stopped before its end.")
    return Comparison(
        base=f"{names[0]}: {title(base)}, {base.created}",
        new=f"{names[1]}: {title(new)}, {new.created}",
        differences=differences(base, new),
        rows=rows,
        failures=failures,
        base_only=base_only,
        new_only=new_only,
        notes=notes,
        base_notes=base.notes,
        new_notes=new.notes,
    )


def differences(base: Result, new: Result) -> list[Difference]:
    """What is not alike about two measurements."""
    found = []
    # Of lengths that both have, the runs are matched; what only one has is named as such.
    matched = _LENGTHS if rounds(base.runs).keys() & rounds(new.runs).keys() else ()
    for part in ("target", "machine", "workload"):
        one, other = structs.asdict(getattr(base, part)), structs.asdict(getattr(new, part))
        for field, value in one.items():
            if value != other[field] and field not in (*_NO_MATTER, *matched):
                work = part == "workload" or field == "endpoint"
                found.append(Difference(field, _shown(value), _shown(other[field]), work))
    if base.miner != new.miner:
        found.append(Difference("miner", base.miner, new.miner, workload=False))
    if base.objective != new.objective:
        both = base.objective is not None and new.objective is not None
        found.append(Difference("objective", _shown(base.objective), _shown(new.objective), both))
    return found


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    return str(value)


def _pairs(base: Result, new: Result) -> tuple[list[tuple[str, list[Run], list[Run]]], list[str], list[str]]:
    """The rounds of each load that both have, with its name; and the loads of only one."""
    ours, theirs = rounds(base.runs), rounds(new.runs)
    if not ours.keys() & theirs.keys() and all(len({key[2:] for key in each}) == 1 for each in (ours, theirs)):
        # Of one length each, but not the same one: compared all the same, since the difference is reported.
        length = next(iter(ours))[2:]
        theirs = {(key[0], key[1], *length): runs for key, runs in theirs.items()}
    several = len({key[2:] for key in ours}) > 1

    def name(key: tuple[int | None, float | None, int, int], runs: list[Run]) -> str:
        return f"{load(runs[0])}, {key[2]} to {key[3]} tokens" if several else load(runs[0])

    pairs = [(name(key, runs), runs, theirs[key]) for key, runs in ours.items() if key in theirs]
    return (
        pairs,
        [name(key, runs) for key, runs in ours.items() if key not in theirs],
        [name(key, runs) for key, runs in theirs.items() if key not in ours],
    )


def _rows(name: str, base: list[Run], new: list[Run]) -> list[Row]:
    rows = []
    for figure, words in _RATES.items():
        old, fresh = _rates(figure, base), _rates(figure, new)
        if old and fresh:
            ratio, spread = _rate_ratio(figure, (base, old), (new, fresh))
            rows.append(_row(name, figure, words, "higher", (_middle(old), _middle(fresh)), ratio, spread))
    for latency in LATENCIES:
        rows += _latency_rows(name, latency, base, new)
    return rows


def _rates(figure: str, runs: list[Run]) -> list[float]:
    if figure == "goodput":
        return [run.goodput.requests_per_second for run in runs if run.goodput is not None]
    return [getattr(run, figure) for run in runs]


def _rate_ratio(
    figure: str, base: tuple[list[Run], list[float]], new: tuple[list[Run], list[float]]
) -> tuple[Ratio, Spread | None]:
    if len(base[1]) > 1 and len(new[1]) > 1:
        return rounds_ratio(base[1], new[1]), "rounds"
    old, fresh = _middle(base[1]), _middle(new[1])
    value = fresh / old if old else math.inf if fresh else 1.0
    if any(run.concurrency is None for run in (*base[0], *new[0])):
        return Ratio(value, None, None), None  # the arrivals decide it, of which there is one sequence
    ratio = share_ratio(_shares(figure, base[0]), _shares(figure, new[0]), value)
    return ratio, "requests" if ratio.low is not None else None


def _shares(figure: str, runs: list[Run]) -> list[tuple[float, float]]:
    """What each request of a closed loop adds to a rate, and the time for which it had a place in the loop."""
    counts = {
        "output_throughput": lambda sample: float(sample.output_tokens),
        "request_throughput": lambda sample: 1.0,
        "goodput": lambda sample: float(bool(sample.good)),
    }
    return [
        (counts[figure](sample), sample.e2e or 0.0) for run in runs for sample in in_order(run) if completed(sample)
    ]  # fmt: skip


def _latency_rows(name: str, latency: Latency, base: list[Run], new: list[Run]) -> list[Row]:
    old = [found for run in base if (found := latency.of(run)) is not None]
    fresh = [found for run in new if (found := latency.of(run)) is not None]
    if not old or not fresh:
        return []
    samples = latency.samples(base), latency.samples(new)
    rows = []
    for point in ("mean", *_SHARES):
        values = [getattr(each, point) for each in old], [getattr(each, point) for each in fresh]
        middle = _middle(values[0]), _middle(values[1])
        spread: Spread | None = None
        if min(map(len, values)) > 1:
            ratio, spread = rounds_ratio(*values), "rounds"
        elif all(samples):
            ratio = mean_ratio(*samples) if point == "mean" else quantile_ratio(*samples, _SHARES[point])
            spread = "requests"
        else:
            ratio = Ratio(middle[1] / middle[0] if middle[0] else 1.0, None, None)
        words = f"{latency.short} {point}"
        rows.append(_row(name, f"{latency.name}.{point}", words, latency.better, middle, ratio, spread))
    return rows


def _row(
    name: str, figure: str, words: str, better: Literal["lower", "higher"], values: tuple[float, float],
    ratio: Ratio, spread: Spread | None,
) -> Row:  # fmt: skip
    verdict: Verdict
    if ratio.low is None and ratio.high is None:
        verdict = "unknown"
    elif not ratio.differs:
        verdict = "no_difference"
    else:
        verdict = "better" if (ratio.value > 1) == (better == "higher") else "worse"
    return Row(name, figure, words, better, *values, ratio.value, ratio.low, ratio.high, spread, verdict)


def _failures(name: str, base: list[Run], new: list[Run]) -> Failures:
    counts = [(sum(run.failed for run in runs), sum(run.requests for run in runs)) for runs in (base, new)]
    (old, of_old), (fresh, of_new) = counts
    likely = chance(old, of_old, fresh, of_new) if of_old and of_new else 1.0
    verdict: Verdict = "no_difference"
    if likely < 1 - CONFIDENCE:
        verdict = "worse" if fresh * of_old > old * of_new else "better"
    return Failures(name, old, of_old, fresh, of_new, likely, verdict)


def _middle(values: Sequence[float]) -> float:
    """The geometric mean, whose quotients are those that `rounds_ratio` bounds."""
    if min(values) <= 0:
        return math.fsum(values) / len(values)
    return math.exp(math.fsum(map(math.log, values)) / len(values))
