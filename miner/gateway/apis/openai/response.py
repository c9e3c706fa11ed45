"""The parts of OpenAI's responses, streamed or not: choices, usage and log probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from miner.core.wire import LLMResponse, TokenLogprob, TokenUsage
from miner.gateway.apis.fields import logprob_object


def _usage_object(usage: TokenUsage) -> dict[str, Any]:
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


def usage_of_choices(usages: Sequence[TokenUsage | None], prompts: int = 1) -> dict[str, Any] | None:
    """`usage` of all choices: a prompt of several choices counts once, as OpenAI counts it. None if one is unknown."""
    known = [usage for usage in usages if usage is not None]
    if len(known) < len(usages):
        return None
    if len(known) == 1:
        return _usage_object(known[0])
    of_prompts = known[:: len(known) // prompts]
    prompt_tokens = sum(usage.prompt_tokens for usage in of_prompts)
    completion_tokens = sum(usage.completion_tokens for usage in known)
    cached, reasoning = [one.cached_tokens for one in of_prompts], [one.reasoning_tokens for one in known]
    total = prompt_tokens + completion_tokens
    return _usage_object(TokenUsage(prompt_tokens, completion_tokens, total, _sum(cached), _sum(reasoning)))


def _sum(counts: list[int | None]) -> int | None:
    return None if all(count is None for count in counts) else sum(count or 0 for count in counts)


def logprob_entry(entry: TokenLogprob) -> dict[str, Any]:
    """One token of `choices[].logprobs.content`."""
    return {**logprob_object(entry), "top_logprobs": [logprob_object(other) for other in entry.alternatives]}


def chat_logprobs(entries: list[TokenLogprob] | None) -> dict[str, Any] | None:
    """`logprobs` of a chat completion's choice."""
    return None if entries is None else {"content": [logprob_entry(one) for one in entries], "refusal": None}


def _completion_logprobs(entries: list[TokenLogprob] | None, offset: int = 0) -> dict[str, Any] | None:
    """`logprobs` of a completion's choice, in the older form: four arrays side by side.

    Args:
        offset: characters of the choice's text before these tokens.
    """
    if entries is None:
        return None
    offsets = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry.token)
    return {
        "tokens": [entry.token for entry in entries],
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": [{other.token: other.logprob for other in entry.alternatives} for entry in entries],
        "text_offset": offsets,
    }


def chat_choice(response: LLMResponse, index: int) -> dict[str, Any]:
    """One of `choices` of a `chat.completion`. A response without a finish reason has "stop"."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": response.content if response.content or not response.tool_calls else None,
        "refusal": None,
    }
    if response.reasoning is not None:
        message["reasoning_content"] = response.reasoning
    if response.tool_calls:
        message["tool_calls"] = response.tool_calls
    return {
        "index": index,
        "message": message,
        "logprobs": chat_logprobs(response.logprobs),
        "finish_reason": response.finish_reason or "stop",
    }


def completion_choice(
    index: int, text: str, logprobs: list[TokenLogprob] | None, finish_reason: str | None, offset: int = 0
) -> dict[str, Any]:
    """One of `choices` of a `text_completion`, streamed (where `finish_reason` may be null) or not.

    Args:
        offset: characters of the choice's text before this one.
    """
    return {
        "index": index,
        "text": text,
        "logprobs": _completion_logprobs(logprobs, offset),
        "finish_reason": finish_reason,
    }
