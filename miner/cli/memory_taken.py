"""What a model of a gateway takes, by its entry in `/admin/models`: main memory and GPU memory, never added up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def main_memory(model: Mapping[str, Any]) -> int:
    """Bytes of main memory; 0: none, or unknown."""
    return int(model.get("memory") or 0)


def gpu_memory(model: Mapping[str, Any]) -> int:
    """Bytes of GPU memory; 0: none, or unknown. A process that sleeps has none."""
    return 0 if model.get("state") == "sleeping" else int(model.get("gpu_memory") or 0)


def memory_words(main: int, gpu: int) -> str:
    """Both as a text, the GPU memory only where there is some; empty without any."""
    from miner.core.models.memory.verdict import readable

    words = [readable(main)] if main else []
    return " and ".join([*words, f"{readable(gpu)} of GPU memory"] if gpu else words)
