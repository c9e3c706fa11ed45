"""Goodput: the requests that met an objective, as `vllm bench serve --goodput` counts them."""

from __future__ import annotations

from miner.cli.bench.measure import Measurement
from miner.cli.parser import UsageError

_NAMES = {"ttft": "ttft", "tpot": "tpot", "e2e": "e2e", "e2el": "e2e"}


def parse_objective(text: str) -> dict[str, float]:
    """Parse `ttft=0.5,tpot=50ms`: upper limits in seconds.

    Raises:
        UsageError: a name or a value is none.
    """
    limits: dict[str, float] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, value = part.replace(":", "=", 1).partition("=")
        known = _NAMES.get(name.strip().lower())
        if known is None:
            raise UsageError(
                f"--objective {part}: unknown figure {name.strip()!r}.", operator_hint="There are ttft, tpot and e2e."
            )
        seconds = _seconds(value.strip().lower())
        if seconds is None or seconds <= 0:
            raise UsageError(
                f"--objective {part}: needs a time above 0, such as {known}=0.5 (seconds) or {known}=500ms."
            )
        limits[known] = seconds
    if not limits:
        raise UsageError("--objective is empty.", operator_hint="Such as --objective ttft=0.5,tpot=0.05.")
    return limits


def _seconds(text: str) -> float | None:
    for unit, factor in (("ms", 0.001), ("s", 1.0), ("", 1.0)):
        if text.endswith(unit):
            try:
                found = float(text.removesuffix(unit) if unit else text) * factor
            except ValueError:
                return None
            return found if found < float("inf") else None
    return None


def is_good(seen: Measurement, objective: dict[str, float] | None) -> bool | None:
    """Whether a request met the objective; a response of one token has a TPOT of 0. None: that cannot be said."""
    if objective is None or seen.cancelled:
        return None
    if not seen.completed:
        return False
    found = {"ttft": seen.ttft, "tpot": seen.tpot or 0.0, "e2e": seen.e2e}
    return all((value := found[name]) is not None and value <= limit for name, limit in objective.items())
