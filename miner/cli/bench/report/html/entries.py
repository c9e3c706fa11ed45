"""The results that a page shows, each with a name of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from miner.cli.bench.report.figures import engine, load, rounds
from miner.cli.bench.result import Result, Run


class Load(Struct, frozen=True):
    """The rounds of one run."""

    name: str
    key: tuple[int | None, float | None, int, int]
    runs: list[Run]

    @property
    def first(self) -> Run:
        """Its first round."""
        return self.runs[0]

    def mean(self, value: Callable[[Run], float | None]) -> float | None:
        """The mean of a figure over the rounds that have it."""
        values = [found for run in self.runs if (found := value(run)) is not None]
        return sum(values) / len(values) if values else None


class Entry(Struct, frozen=True):
    """One result."""

    label: str
    result: Result
    loads: list[Load]


def entries(results: Sequence[Result], names: Sequence[str]) -> list[Entry]:
    """The results with the shortest label that tells them apart: engine, model, both, else the file."""
    choices = (
        [engine(result) for result in results],
        [result.target.model or "" for result in results],
        [f"{result.target.model} on {engine(result)}" for result in results],
        [Path(name).stem for name in names],
        [f"{number}: {name}" for number, name in enumerate(names, 1)],
    )
    labels = next(each for each in choices if all(each) and len(set(each)) == len(each))
    return [Entry(label, result, _loads(result)) for label, result in zip(labels, results, strict=True)]


def _loads(result: Result) -> list[Load]:
    groups = rounds(result.runs)
    lengths = {key[2:] for key in groups}
    several = [len({length[place] for length in lengths}) > 1 for place in (0, 1)]
    loads = []
    for key, runs in groups.items():
        name = load(runs[0])
        if several[0]:
            name += f", prompt {key[2]}"
        if several[1]:
            name += f", output {key[3]}"
        loads.append(Load(name, key, runs))
    return loads


def common(found: Sequence[Entry]) -> list[str]:
    """Names of the loads that all results have."""
    return [
        load.name
        for load in found[0].loads
        if all(any(other.name == load.name for other in each.loads) for each in found)
    ]
