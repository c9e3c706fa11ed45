"""ChoiceOptions: what of a request its response depends on."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class ChoiceOptions:
    """The fields of the body that affect how its choices are written."""

    include_usage: bool = False
    prompts: int = 1
    """Prompts of the request; each has as many choices."""
    echo: dict[int, str] = field(default_factory=dict)
    """Choice -> its prompt, where that comes before its completion."""
    functions: bool = False
    """Whether the client knows functions, not tools."""
    custom_tools: set[str] = field(default_factory=set)
    """Names of tools whose input is a text."""
    prompt_only: bool = False
    """Whether nothing is to be generated (`max_tokens: 0`): the prompt is in the engine's cache then."""
    timings: bool = False
    """Whether the response has llama.cpp's `timings`."""
    continuous_usage: bool = False
    """Whether each event has the usage so far, as vLLM's `continuous_usage_stats`."""
