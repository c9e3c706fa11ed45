"""What the options ask for: the runs, in their order."""

from __future__ import annotations

import itertools

from msgspec import Struct

_CLOSED_LEAST = 8
_PER_SLOT = 4
_OPEN = 32


class PlannedRun(Struct, kw_only=True, frozen=True):
    """One run that is to be measured."""

    name: str
    concurrency: int | None
    request_rate: float | None
    prompt_tokens: int
    max_tokens: int
    round: int
    requests: int | None
    """None: as many as there is time for."""
    duration: float | None
    """Seconds in which requests are sent; None: until all are."""


def planned_runs(
    *, concurrencies: list[int], rates: list[float], prompt_tokens: list[int], max_tokens: list[int],
    requests: int | None, duration: float | None, rounds: int,
) -> list[PlannedRun]:  # fmt: skip
    """Every load with every length, `rounds` times; a round is complete before the next, so that what changes on the
    machine meets all runs alike.
    """
    loads = [*((each, None) for each in concurrencies), *((None, each) for each in rates)]
    lengths = list(itertools.product(prompt_tokens, max_tokens))
    planned = []
    for number, (prompt, limit), (concurrency, rate) in itertools.product(range(1, rounds + 1), lengths, loads):
        name = f"concurrency {concurrency}" if concurrency is not None else f"rate {rate:g}/s"
        if len(prompt_tokens) > 1:
            name += f", prompt {prompt}"
        if len(max_tokens) > 1:
            name += f", output {limit}"
        if rounds > 1:
            name += f", round {number}"
        count = requests
        if count is None and duration is None:
            count = _OPEN if concurrency is None else max(_CLOSED_LEAST, _PER_SLOT * concurrency)
        planned.append(
            PlannedRun(
                name=name, concurrency=concurrency, request_rate=rate, prompt_tokens=prompt, max_tokens=limit,
                round=number, requests=count, duration=duration,
            )
        )  # fmt: skip
    return planned
