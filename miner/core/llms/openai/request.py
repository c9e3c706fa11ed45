"""The JSON body of a request to an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from miner.core.wire import ChatRequest, Message, OutputFormat

_SAMPLING = (
    "seed", "top_k", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "logit_bias",
)  # fmt: skip


def chat_body(request: ChatRequest, names: Mapping[str, str], neutral: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body for `/chat/completions`.

    Args:
        names: options that the server names differently, and its names.
        neutral: fields that are sent unless the request sets them.
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
    """Return the body for `/completions`, where the prompt is verbatim."""
    body = _common(request, names, neutral)
    body["prompt"] = request.prompt if request.prompt_tokens is None else request.prompt_tokens
    if request.suffix is not None:
        body["suffix"] = request.suffix
    if request.logprobs is not None:
        body["logprobs"] = request.logprobs
    if request.response_format is not None:
        body.update(_response_format(request.response_format))
    return body


def effort_of(reasoning: bool | str) -> str:
    """Return the value of `reasoning_effort`."""
    if isinstance(reasoning, str):
        return reasoning
    return "medium" if reasoning else "none"


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
    mapped: dict[str, Any] = msgspec.to_builtins(message)
    if message.content is None:
        mapped["content"] = None if message.tool_calls else ""
    reasoning = mapped.pop("reasoning", None)
    if reasoning is not None:
        mapped[names.get("reasoning_text", "reasoning")] = reasoning
    return mapped


def _response_format(output: OutputFormat) -> dict[str, Any]:
    match output.kind:
        case "json_object":
            return {"response_format": {"type": "json_object"}}
        case "json_schema":
            schema = {"name": output.name, "schema": output.schema, "strict": output.strict is not False}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        case kind:  # regex and grammar: `adjust` of the engine sends them
            return {kind: output.pattern}
