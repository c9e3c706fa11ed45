"""The options of a measurement, checked."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class Options(Struct, kw_only=True, frozen=True):
    """As `miner bench --help` describes them; times in seconds."""

    endpoint: str
    concurrencies: list[int]
    rates: list[float]
    burstiness: float
    requests: int | None
    duration: float | None
    rounds: int
    warmup: int
    prompt_tokens: list[int]
    max_tokens: list[int]
    ignore_eos: bool
    shared_prefix: int
    turns: int
    cancel: float
    temperature: float | None
    extra_body: dict[str, Any]
    seed: int
    timeout: float | None
    objective: dict[str, float] | None
