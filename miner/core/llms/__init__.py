"""The interface over the engines: `get_backend(name, config)` gives a service that speaks to one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from miner.core.llms.LLMService import LLMService
from miner.core.llms.registry import get_backend, get_backends
from miner.core.wire import LLMChunk, LLMResponse, TokenUsage

if TYPE_CHECKING:
    BACKENDS: dict[str, type[LLMService]]

__all__ = ["BACKENDS", "LLMChunk", "LLMResponse", "LLMService", "TokenUsage", "get_backend", "get_backends"]


def __getattr__(name: str) -> Any:
    if name == "BACKENDS":
        # Computed on first access: importing this package loads no backend.
        globals()["BACKENDS"] = backends = get_backends()
        return backends
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
