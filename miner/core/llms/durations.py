"""Durations as callers write them: seconds, or Ollama's form."""

from __future__ import annotations

import re

from miner.errors import InvalidRequestError

__all__ = ["seconds_of"]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_of(keep_alive: float | str | None) -> float | None:
    """Seconds of 300, "5m", "1h30m" or "-1m".

    Raises:
        InvalidRequestError: it is no duration.
    """
    if keep_alive is None or isinstance(keep_alive, (int, float)):
        return keep_alive
    text = keep_alive.lstrip("-")
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidRequestError(
            f'keep_alive must be seconds or a duration such as "5m", not {keep_alive!r}.', param="keep_alive"
        )
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    return -total if keep_alive.startswith("-") else total
