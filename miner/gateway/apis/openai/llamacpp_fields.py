"""Fields of llama.cpp's server in OpenAI's bodies and responses: progress of the prompt, and timings."""

from __future__ import annotations

from typing import Any

from miner.core.wire import Progress, Timings, TokenUsage


def timings_object(usage: TokenUsage | None, timings: Timings | None) -> dict[str, Any] | None:
    """`timings` of a response; None where the engine measures nothing."""
    if usage is None or timings is None or timings.decode is None:
        return None
    cached = usage.cached_tokens or 0
    return {
        "cache_n": cached,
        **_stage("prompt", usage.prompt_tokens - cached, timings.prefill or 0.0),
        **_stage("predicted", usage.completion_tokens, timings.decode),
    }


def _stage(name: str, tokens: int, seconds: float) -> dict[str, Any]:
    return {
        f"{name}_n": tokens,
        f"{name}_ms": seconds * 1000,
        f"{name}_per_token_ms": seconds * 1000 / tokens if tokens else 0.0,
        f"{name}_per_second": tokens / seconds if seconds else 0.0,
    }


class PromptProgress:
    """`prompt_progress` of one choice. The first report has the tokens that were in the cache."""

    def __init__(self) -> None:
        self._cached: int | None = None

    def report(self, progress: Progress | None) -> dict[str, int] | None:
        """The object for an event; None where nothing is reported."""
        if progress is None or progress.stage != "prefill":
            return None
        if self._cached is None:
            self._cached = progress.done
        return {"total": progress.total, "cache": self._cached, "processed": progress.done}
