"""The JSON body of a request to an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from miner.core.wire import ChatRequest, Message, OutputFormat

__all__ = ["chat_body", "completion_body"]

_SAMPLING = (
    "seed", "top_k", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "logit_bias",
)  # fmt: skip


def chat_body(request: ChatRequest, names: Mapping[str, str], neutral: Mapping[str, Any]) -> dict[str, Any]:
    """For `/chat/completions`.

    Args:
        names: the server's own names of options.
        neutral: fields that are always sent, unless the request sets them.
    """
    body = _common(request, names, neutral)
    body["messages"] = [_message(message, names) for message in request.as_messages()]
    if request.tools is not None and request.tool_choice != "none":
        body["tools"] = request.tools
        body["tool_choice"] = request.tool_choice or "auto"
        if request.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = request.parallel_tool_calls
    if request.logprobs is not None:
        body["logprobs"] = True
        body["top_logprobs"] = request.logprobs
    if request.response_format is not None:
        body.update(_response_format(request.response_format))
    return body


def completion_body(request: ChatRequest, names: Mapping[str, str], neutral: Mapping[str, Any]) -> dict[str, Any]:
    """For `/completions`: the prompt verbatim."""
    body = _common(request, names, neutral)
    body["prompt"] = request.prompt if request.prompt_tokens is None else request.prompt_tokens
    if request.logprobs is not None:
        body["logprobs"] = request.logprobs
    if request.response_format is not None:
        body.update(_response_format(request.response_format))
    return body


def _common(request: ChatRequest, names: Mapping[str, str], neutral: Mapping[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        **neutral,
    }
    for option in _SAMPLING:
        value = getattr(request, option)
        if value is not None:
            body[names.get(option, option)] = value
    if request.stop:
        body["stop"] = request.stop
    return body


def _message(message: Message, names: Mapping[str, str]) -> dict[str, Any]:
    turn: dict[str, Any] = msgspec.to_builtins(message)
    if message.content is None:
        turn["content"] = None if message.tool_calls else ""
    thoughts = turn.pop("reasoning", None)
    if thoughts is not None:
        turn[names.get("reasoning_text", "reasoning")] = thoughts
    return turn


def _response_format(wanted: OutputFormat) -> dict[str, Any]:
    match wanted.kind:
        case "json_object":
            return {"response_format": {"type": "json_object"}}
        case "json_schema":
            schema = {"name": wanted.name, "schema": wanted.schema, "strict": wanted.strict is not False}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        case kind:  # of the engines' own, which set them in `adjust`
            return {kind: wanted.pattern}
