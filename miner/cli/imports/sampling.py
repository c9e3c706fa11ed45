"""Parameters of requests that other tools set, as `sampling`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_BOUNDS: dict[str, tuple[str, type, float, float]] = {
    "temperature": ("temperature", float, 0, 2),
    "top_p": ("top_p", float, 0, 1),
    "top_k": ("top_k", int, 0, math.inf),
    "min_p": ("min_p", float, 0, 1),
    "seed": ("seed", int, 0, 2**32 - 1),
    "repeat_penalty": ("repeat_penalty", float, 1e-9, 2),
    "repetition_penalty": ("repeat_penalty", float, 1e-9, 2),
    "presence_penalty": ("presence_penalty", float, -2, 2),
    "frequency_penalty": ("frequency_penalty", float, -2, 2),
    "max_tokens": ("max_tokens", int, 1, math.inf),
    "max_completion_tokens": ("max_tokens", int, 1, math.inf),
    "num_predict": ("max_tokens", int, 1, math.inf),
}


def sampling_of(params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `sampling` can say of these parameters, and the rest."""
    sampling: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for key, value in params.items():
        if key == "stop" and (isinstance(value, str) or _texts(value)):
            sampling["stop"] = [value] if isinstance(value, str) else list(value)
            continue
        known = _BOUNDS.get(key)
        if known is None or isinstance(value, bool) or not isinstance(value, int | float):
            rest[key] = value
            continue
        name, kind, least, most = known
        if not least <= value <= most or (kind is int and value != int(value)) or name in sampling:
            rest[key] = value
        else:
            sampling[name] = int(value) if kind is int else value
    return sampling, rest


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
