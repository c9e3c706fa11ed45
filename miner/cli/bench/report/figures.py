"""The figures that are shown of a run: names, words, units, and where their values stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from miner.cli.bench.report import units
from miner.cli.bench.result import Result, Run, Sample, Statistics

POINTS = ("mean", "p50", "p90", "p99")


class Latency(Struct, frozen=True):
    """A figure that every request has."""

    name: str
    """Its field of a run."""
    short: str
    words: str
    meaning: str
    better: Literal["lower", "higher"] = "lower"

    def of(self, run: Run) -> Statistics | None:
        """Its statistics over a run."""
        found: Statistics | None = getattr(run, self.name)
        return found

    def samples(self, runs: Sequence[Run]) -> list[float]:
        """Its values for each completed request, in the order of sending; empty where requests do not tell (itl)."""
        values = (_value(self.name, sample) for run in runs for sample in in_order(run) if completed(sample))
        return [value for value in values if value is not None]

    def text(self, value: float | None) -> str:
        """A value with its unit."""
        return units.rate(value) if self.better == "higher" else units.seconds(value)


TTFT = Latency(
    "ttft", "TTFT", "time to first token",
    "From sending a request to the first token of its response: the wait in the queue and the work on the prompt.",
)  # fmt: skip
TPOT = Latency(
    "tpot", "TPOT", "time per output token",
    "The time after the first token, divided by the tokens that followed: one value for each request.",
)  # fmt: skip
ITL = Latency(
    "itl", "ITL", "inter-token latency",
    "The gap between two pieces of a response. Its p99 shows the stalls that a mean of the request hides.",
)  # fmt: skip
E2E = Latency("e2e", "E2E", "end-to-end latency", "From sending a request to its last token.")
SPEED = Latency(
    "tokens_per_second", "tokens/s per request", "speed of one request",
    "The output tokens of a request, divided by its end-to-end latency: what one user sees.", "higher",
)  # fmt: skip
LATENCIES = (TTFT, TPOT, ITL, E2E, SPEED)


def completed(sample: Sample) -> bool:
    """Whether a request went to its end."""
    return sample.error is None and not sample.cancelled and sample.e2e is not None


def in_order(run: Run) -> list[Sample]:
    """The requests of a run in the order of sending."""
    return sorted(run.samples, key=lambda sample: sample.start)


def load(run: Run) -> str:
    """The load of a run in words, with neither lengths nor round."""
    if run.concurrency is not None:
        return f"concurrency {run.concurrency}"
    return f"rate {run.request_rate:g}/s" if run.request_rate is not None else run.name


def rounds(runs: Sequence[Run]) -> dict[tuple[int | None, float | None, int, int], list[Run]]:
    """The rounds of each run, by load and lengths, in the order of the result."""
    groups: dict[tuple[int | None, float | None, int, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.concurrency, run.request_rate, run.prompt_length, run.max_tokens), []).append(run)
    return groups


def title(result: Result) -> str:
    """What was measured: the model and the engine."""
    model = result.target.model or "the default model"
    return f"{model} on {engine(result)}"


def engine(result: Result) -> str:
    """The engine as it calls itself, else where it is."""
    target = result.target
    return target.engine or (target.url if target.url else target.backend)


def _value(name: str, sample: Sample) -> float | None:
    if name == "tokens_per_second":
        return sample.output_tokens / sample.e2e if sample.e2e else None
    if name == "itl":
        return None
    value: float | None = getattr(sample, name)
    return value
