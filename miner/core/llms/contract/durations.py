"""Durations as callers write them: seconds, or a text as Go reads it, and with it Ollama."""

from __future__ import annotations

import re

from miner.errors import InvalidRequestError

__all__ = ["LONGEST", "seconds_of"]

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
"""The micro sign, and the Greek letter that looks like it."""
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_PART = re.compile(rf"({_NUMBER})({'|'.join(sorted(_UNITS, key=len, reverse=True))})", re.ASCII)
_DURATION = re.compile(rf"([+-]?)(0|(?:{_PART.pattern})+)", re.ASCII)
LONGEST = 1e9
"""Seconds, thirty years: more than Go's own durations hold would be refused by Ollama."""


def seconds_of(value: float | str, name: str = "keep_alive") -> float:
    """Seconds of 300, "5m", "1h30m", "1.5h", "-1m" or "0". As in Go, a text without a unit is none, but for "0".

    Raises:
        InvalidRequestError: it is no duration, or longer than a lifetime.
    """
    if isinstance(value, str):
        found = _DURATION.fullmatch(value)
        if found is not None:
            total = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(found.group(2)))
            if total <= LONGEST:
                return -total if found.group(1) == "-" else total
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LONGEST:
        return value
    raise InvalidRequestError(
        f"{name} must be seconds, or a text such as 10m or 1h30m, not {str(value)[:80]!r}.", param=name
    )
