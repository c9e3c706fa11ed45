"""OpenAI's parameters and messages as the service takes them; usage and log probabilities as OpenAI writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from miner.core.llms.contract.request import folded_seed
from miner.core.wire import TokenLogprob, TokenUsage
from miner.errors import InvalidRequestError, UnsupportedFeatureError
from miner.gateway.apis.fields import logprob_object, set_fields
from miner.gateway.apis.images import check_parts
from miner.gateway.apis.openai.schema import SamplingParams
from miner.gateway.body_limits import MAX_SCHEMA, bounded, check_arguments, check_length
from miner.gateway.dialect import Call

__all__ = [
    "MAX_CHOICES", "choice_arguments", "convert_messages", "logprob_entry", "prompt_usage_object", "sampling_arguments",
    "sampling_names", "stop_and_top_k", "usage_object", "usage_of_choices",
]  # fmt: skip

MAX_CHOICES = 16
"""Choices (`n`, times the prompts) of one request at most."""
_SAME = (
    "model", "max_tokens", "temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "logit_bias",
    "min_p", "repeat_penalty", "keep_alive", "timeout", "unsupported",
)  # fmt: skip
"""Parameters that the service has under the same name."""


def sampling_arguments(body: SamplingParams) -> dict[str, Any]:
    """The service's arguments for what both kinds of completions share."""
    arguments = {**set_fields(body, _SAME), **stop_and_top_k(body.stop, body.top_k)}
    if body.repeat_penalty is None and body.repetition_penalty is not None:
        arguments["repeat_penalty"] = body.repetition_penalty
    if body.stream_options is not None:
        if not body.stream:
            raise InvalidRequestError("stream_options requires stream: true.", param="stream_options")
        if body.stream_options.continuous_usage_stats:
            raise UnsupportedFeatureError(
                "Unsupported parameter: 'stream_options.continuous_usage_stats'. Usage is sent once, at the end.",
                param="stream_options.continuous_usage_stats",
            )
    if body.logit_bias is not None:
        bounded(body.logit_bias, "logit_bias")
    if body.response_format is not None:
        arguments["response_format"] = bounded(body.response_format, "response_format", MAX_SCHEMA)
    return arguments


def stop_and_top_k(stop: str | list[str] | None, top_k: int | None) -> dict[str, Any]:
    """The service's `stop` and `top_k`: an empty stop is none, and -1 is off, as vLLM's clients send it."""
    arguments: dict[str, Any] = {"stop": stop} if stop else {}
    if top_k is not None:
        arguments["top_k"] = 0 if top_k == -1 else top_k
    return arguments


def sampling_names(body: SamplingParams) -> dict[str, str]:
    """The client's fields for the service's parameters, where they differ."""
    return {"repeat_penalty": "repetition_penalty"} if body.repeat_penalty is None else {}


def choice_arguments(n: int | None, seed: int | None, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """The arguments of `n` calls. With a seed, each has its own: equal seeds would give equal choices."""
    if n is None or n == 1:
        return [arguments]
    if not 1 <= n <= MAX_CHOICES:
        raise InvalidRequestError(f"n must be from 1 to {MAX_CHOICES}, not {n}.", param="n")
    if seed is None:
        return [dict(arguments) for _ in range(n)]
    first = folded_seed(seed)
    return [{**arguments, "seed": -1 if first is None else first + index} for index in range(n)]


def convert_messages(messages: list[dict[str, Any]], call: Call) -> list[dict[str, Any]]:
    """The messages as the service takes them, which is as OpenAI has them. What no template shows to a model is listed
    as ignored; what OpenAI has deprecated is refused.
    """
    check_length(messages, "messages")
    check_arguments(_call_arguments(messages), "messages")
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        if message.get("role") == "function":
            raise UnsupportedFeatureError(
                f"Unsupported value: '{where}.role' does not support 'function'.", param=f"{where}.role",
                hint="Use role 'tool' with tool_call_id, which replaced it.",
            )  # fmt: skip
        for name in ("audio", "function_call"):
            if message.pop(name, None):
                raise UnsupportedFeatureError(
                    f"Unsupported parameter: '{where}.{name}'.", param=f"{where}.{name}", hint="Use content instead."
                )
        ignored = [name for name in ("annotations", "cache_control") if message.pop(name, None)]
        content = message.get("content")
        parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
        if [part for part in parts if part.pop("cache_control", None) is not None]:
            ignored.append("content.cache_control")  # engines cache prompts by themselves
        if message.get("role") == "tool":
            if (tool_name := message.pop("tool_name", None)) is not None:
                message.setdefault("name", tool_name)  # Ollama's field
        elif message.pop("name", None) is not None:
            ignored.append("name")  # no engine's template shows it to the model
        call.ignored += [f"messages.{name}" for name in ignored if f"messages.{name}" not in call.ignored]
        check_parts(message, where, call.remote_images)
    return messages


def _call_arguments(messages: list[dict[str, Any]]) -> Iterator[str]:
    for message in messages:
        tool_calls = message.get("tool_calls")
        for tool_call in tool_calls if isinstance(tool_calls, list) else ():
            function = tool_call.get("function") if isinstance(tool_call, dict) else None
            text = function.get("arguments") if isinstance(function, dict) else None
            if isinstance(text, str):
                yield text


def usage_object(usage: TokenUsage | None) -> dict[str, Any] | None:
    """`usage` of a completion; null where the engine sent none."""
    if usage is None:
        return None
    body: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
    if usage.cached_tokens is not None:
        body["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.reasoning_tokens is not None:
        body["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return body


def prompt_usage_object(usage: TokenUsage | None) -> dict[str, int] | None:
    """`usage` of a request that generates nothing; null where the engine sent none."""
    return None if usage is None else {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.total_tokens}


def usage_of_choices(usages: Mapping[int, TokenUsage | None], choices: int, prompts: int) -> TokenUsage | None:
    """Usage of several choices: a prompt of several choices counts once, as OpenAI counts it. None where that of one is
    not known.

    Args:
        usages: by the choice's index.
    """
    known = [usage for index in range(choices) if (usage := usages.get(index)) is not None]
    if len(known) < choices:
        return None
    if choices == 1:
        return known[0]
    of_prompts = known[:: choices // prompts]
    prompt_tokens = sum(usage.prompt_tokens for usage in of_prompts)
    completion_tokens = sum(usage.completion_tokens for usage in known)
    return TokenUsage(
        prompt_tokens,
        completion_tokens,
        prompt_tokens + completion_tokens,
        _sum([usage.cached_tokens for usage in of_prompts]),
        _sum([usage.reasoning_tokens for usage in known]),
    )


def _sum(counts: list[int | None]) -> int | None:
    return None if all(count is None for count in counts) else sum(count or 0 for count in counts)


def logprob_entry(entry: TokenLogprob) -> dict[str, Any]:
    """One token of `choices[].logprobs.content`."""
    return {**logprob_object(entry), "top_logprobs": [logprob_object(other) for other in entry.alternatives]}
