"""What a model of a gateway takes, by its entry in `/admin/models`: main memory and GPU memory, never added up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OCCUPYING = ("ready", "loading", "stopping", "sleeping")
"""States in which a model takes memory here; in others a gateway tells what it is expected to take."""


def main_memory(model: Mapping[str, Any]) -> int:
    """Bytes of main memory that it takes now; 0: none, or unknown."""
    return int(model.get("memory") or 0) if model.get("state") in _OCCUPYING else 0


def gpu_memory(model: Mapping[str, Any]) -> int:
    """Bytes of GPU memory that it takes now; 0: none, or unknown. A process that sleeps has none."""
    occupies = model.get("state") in _OCCUPYING and model.get("state") != "sleeping"
    return int(model.get("gpu_memory") or 0) if occupies else 0


def without_estimates(model: Mapping[str, Any]) -> dict[str, Any]:
    """The entry with null for the memory of a model that is not loaded."""
    if model.get("state") in _OCCUPYING:
        return dict(model)
    return {key: None if key in ("memory", "gpu_memory") else value for key, value in model.items()}


def memory_words(main: int, gpu: int) -> str:
    """Both as a text, the GPU memory only where there is some; empty without any."""
    from miner.core.models.memory.verdict import readable

    words = [readable(main)] if main else []
    return " and ".join([*words, f"{readable(gpu)} of GPU memory"] if gpu else words)
