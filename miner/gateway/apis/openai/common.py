"""What OpenAI's resources share: usage, sampling parameters, tools and formats."""

from __future__ import annotations

from typing import Any

import msgspec

from miner.core.llms.contract.request import folded_seed
from miner.core.wire import LLMResponse, TokenLogprob, TokenUsage
from miner.errors import InvalidRequestError, UnsupportedFeatureError
from miner.gateway.body_limits import bounded

__all__ = [
    "DONE", "STREAM_TYPE", "Sampling", "StreamOptions", "logprob_entry", "read_usage",
    "sampling", "sampling_names", "usage_object",
]  # fmt: skip

STREAM_TYPE = "text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"
MAX_REPLIES = 16
"""Replies (`n`, or prompts) of one request at most."""


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """How a stream is told."""

    include_usage: bool = False
    include_obfuscation: bool = False
    """OpenAI's padding against eavesdroppers: there is none here, and none is lost."""
    continuous_usage_stats: bool = False


class Sampling(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The parameters that chat and plain completions share, and those that users of local engines know."""

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    user: str | None = None

    top_k: int | None = None
    """0 or -1: off."""
    min_p: float | None = None
    repeat_penalty: float | None = None
    repetition_penalty: float | None = None
    """Another name of repeat_penalty."""
    keep_alive: float | str | None = None
    """How long the model stays loaded after the request, where the engine knows that."""
    timeout: float | None = None
    """Seconds for the whole request."""
    unsupported: str | None = None
    """`ignore`: drop what the backend lacks and tell it in `x-miner-ignored-params`; `error`: refuse it."""


_PLAIN = (
    "model", "max_tokens", "temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "logit_bias",
    "min_p", "keep_alive", "timeout", "unsupported",
)  # fmt: skip


def sampling(body: Sampling) -> dict[str, Any]:
    """The arguments of the service."""
    arguments: dict[str, Any] = {}
    for name in _PLAIN:
        value = getattr(body, name)
        if value is not None:
            arguments[name] = value
    if body.stop:
        arguments["stop"] = body.stop
    if body.top_k is not None:
        arguments["top_k"] = 0 if body.top_k == -1 else body.top_k
    penalty = body.repeat_penalty if body.repeat_penalty is not None else body.repetition_penalty
    if penalty is not None:
        arguments["repeat_penalty"] = penalty
    if body.stream_options is not None:
        if not body.stream:
            raise InvalidRequestError("stream_options needs stream: true.", param="stream_options")
        if body.stream_options.continuous_usage_stats:
            raise UnsupportedFeatureError(
                "stream_options.continuous_usage_stats is not supported: usage comes once, at the end.",
                param="stream_options.continuous_usage_stats",
            )
    if body.logit_bias is not None:
        bounded(body.logit_bias, "logit_bias")
    return arguments


def sampling_names(body: Sampling) -> dict[str, str]:
    """The service's names of the parameters that have another one in the body."""
    return {"repeat_penalty": "repetition_penalty"} if body.repeat_penalty is None else {}


def replies(n: int | None, seed: int | None, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """The arguments of `n` calls. With a seed, each has its own: equal seeds would give equal replies."""
    if n is None or n == 1:
        return [arguments]
    if not 1 <= n <= MAX_REPLIES:
        raise InvalidRequestError(f"n must be from 1 to {MAX_REPLIES}, not {n}.", param="n")
    if seed is None:
        return [dict(arguments) for _ in range(n)]
    first = folded_seed(seed)
    return [{**arguments, "seed": -1 if first is None else first + place} for place in range(n)]


def usage_object(usage: TokenUsage | None) -> dict[str, Any] | None:
    """OpenAI's usage; null where the engine sent none."""
    if usage is None:
        return None
    told: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
    if usage.cached_tokens is not None:
        told["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.reasoning_tokens is not None:
        told["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return told


def read_usage(usage: TokenUsage | None) -> dict[str, int] | None:
    """Usage of a request that generates nothing; null where the engine sent none."""
    return None if usage is None else {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.total_tokens}


def usage_of_choices(responses: list[LLMResponse], prompts: int) -> TokenUsage | None:
    """Usage of several replies: a prompt that several replies answer counts once, as OpenAI counts it. None where that
    of one is not known.
    """
    if len(responses) == 1:
        return responses[0].usage
    usages = [response.usage for response in responses if response.usage is not None]
    if len(usages) < len(responses):
        return None
    prompts_usages = usages[:: len(usages) // prompts]
    read = sum(usage.prompt_tokens for usage in prompts_usages)
    written = sum(usage.completion_tokens for usage in usages)
    cached = [usage.cached_tokens for usage in prompts_usages]
    thoughts = [usage.reasoning_tokens for usage in usages]
    return TokenUsage(
        read,
        written,
        read + written,
        None if all(count is None for count in cached) else sum(count or 0 for count in cached),
        None if all(count is None for count in thoughts) else sum(count or 0 for count in thoughts),
    )


def logprob_entry(entry: TokenLogprob) -> dict[str, Any]:
    """One token of `choices[].logprobs.content`."""
    return {
        **_logprob(entry),
        "top_logprobs": [_logprob(other) for other in entry.alternatives],
    }


def _logprob(entry: TokenLogprob) -> dict[str, Any]:
    raw = entry.bytes if entry.bytes is not None else list(entry.token.encode())
    return {"token": entry.token, "logprob": entry.logprob, "bytes": raw}
