"""What responses cost: tokens, speed, and how full the context is. Only what the engine says, or our own clock."""

from __future__ import annotations

from dataclasses import dataclass, field

from miner.core.wire import LLMResponse

FULL = 0.8
"""Share of the context from which on the footer warns."""
_RAISE = {
    "llamacpp": "raise LLAMACPP_CTX_SIZE",
    "ollama": "raise OLLAMA_NUM_CTX",
    "vllm": "raise the server's --max-model-len",
    "pool": "raise `context` of the model in miner.toml",
}


def speed_of(response: LLMResponse) -> tuple[float, bool] | None:
    """Tokens per second of a response, and whether the engine measured the time; None where that cannot be told."""
    usage, timings = response.usage, response.timings
    if usage is None or not usage.completion_tokens:
        return None
    if timings.decode:
        return usage.completion_tokens / timings.decode, True
    if timings.total is None or timings.time_to_first_token is None or usage.completion_tokens < 2:
        return None
    seconds = timings.total - timings.time_to_first_token
    return ((usage.completion_tokens - 1) / seconds, False) if seconds > 0 else None


@dataclass(slots=True)
class Usage:
    """The tokens of a conversation."""

    context_length: int | None = None
    """Of the model; None: the server does not say."""
    last: LLMResponse | None = None
    responses: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    _warned: list[float] = field(default_factory=list)

    @property
    def used(self) -> int | None:
        """Tokens of the context that the conversation takes, as of the last response; None: not known."""
        usage = self.last.usage if self.last is not None else None
        return usage.prompt_tokens + usage.completion_tokens if usage is not None else None

    def add(self, response: LLMResponse) -> None:
        """Count a response."""
        self.last = response
        self.responses += 1
        if response.usage is not None:
            self.prompt_tokens += response.usage.prompt_tokens
            self.completion_tokens += response.usage.completion_tokens

    def forget(self) -> None:
        """The conversation begins again."""
        self.last = None
        self._warned.clear()

    def footer(self) -> str:
        """One line about the last response and the context."""
        parts = [self.context()]
        if self.last is not None:
            speed = speed_of(self.last)
            if speed is not None:
                parts.append(f"{'' if speed[1] else '~'}{speed[0]:.3g} tokens/s" if speed[0] < 1000 else
                             f"{'' if speed[1] else '~'}{speed[0]:,.0f} tokens/s")  # fmt: skip
            if self.last.usage is not None:
                parts.append(f"{self.last.usage.completion_tokens:,} tokens")
            if self.last.timings.total is not None:
                parts.append(f"{self.last.timings.total:.1f} s")
        return " · ".join(filter(None, parts))

    def context(self) -> str:
        """How full the context is; empty where nothing is known."""
        used, length = self.used, self.context_length
        if used is None:
            return "the server counts no tokens" if self.last is not None else ""
        if length is None:
            return f"context {used:,}"
        return f"context {used:,} / {length:,} ({100 * used / length:.0f} %)"

    def warning(self, backend: str | None) -> str | None:
        """What to do once the context is nearly full: at 80 % and at 95 %, each once."""
        used, length = self.used, self.context_length
        if used is None or length is None:
            return None
        steps = [step for step in (FULL, 0.95) if used / length >= step and step not in self._warned]
        if not steps:
            return None
        self._warned += steps
        return f"The context is {100 * used / length:.0f} % full: {context_hint(backend)}."


def context_hint(backend: str | None) -> str:
    """How to get more room in the context."""
    raised = _RAISE.get(backend or "", "raise the context of the server (LLAMACPP_CTX_SIZE on llama.cpp)")
    return f"/clear begins again; for more room {raised}"
