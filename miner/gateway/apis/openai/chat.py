"""OpenAI's `/v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from miner.core.llms.contract.request import REASONING_LEVELS
from miner.core.wire import LLMResponse
from miner.errors import InvalidRequestError, UnsupportedFeatureError
from miner.gateway.apis.base import Call, Head
from miner.gateway.apis.images import check_parts
from miner.gateway.apis.openai.allowed_tools import allow_tools
from miner.gateway.apis.openai.chat_stream import ChatStream
from miner.gateway.apis.openai.common import (
    STREAM_TYPE,
    Sampling,
    logprob_entry,
    replies,
    sampling,
    sampling_names,
    usage_object,
    usage_of_choices,
)
from miner.gateway.body_limits import MAX_SCHEMA, bounded, check_arguments, check_length
from miner.gateway.field_names import FieldNames
from miner.gateway.request_body import decode

__all__ = ["ChatBody", "OpenAIChat", "chat_messages"]

_EFFORTS = ("none", *REASONING_LEVELS)
_NO_EFFECT = ("user", "metadata", "safety_identifier", "prompt_cache_key")
"""Accepted silently: they steer OpenAI's own books, not the reply."""


class ChatBody(Sampling, kw_only=True, forbid_unknown_fields=True):
    """The body of a chat completion."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    """The newer name of max_tokens."""
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    """vLLM's and llama.cpp's way to switch thoughts: only `enable_thinking` is known."""

    metadata: dict[str, Any] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: Any = None
    service_tier: str | None = None
    store: bool | None = None
    modalities: list[str] | None = None
    prediction: Any = None
    verbosity: str | None = None

    audio: Any = None
    function_call: Any = None
    functions: Any = None
    web_search_options: Any = None
    moderation: Any = None


_DECODER = msgspec.json.Decoder(ChatBody)


class OpenAIChat:
    """The dialect of `/v1/chat/completions`."""

    stream_type = STREAM_TYPE
    heartbeat = b": keep-alive\n\n"

    def parse(self, body: bytes) -> Call:
        """Read a body."""
        asked = decode(body, _DECODER)
        ignored = _without_effect(asked)
        arguments = sampling(asked)
        remote: list[str] = []
        arguments["messages"] = chat_messages(asked.messages, ignored, remote)
        if asked.max_completion_tokens is not None:
            if asked.max_tokens not in (None, asked.max_completion_tokens):
                raise InvalidRequestError(
                    f"max_tokens {asked.max_tokens} and max_completion_tokens {asked.max_completion_tokens} differ.",
                    param="max_tokens", hint="Send one of them.",
                )  # fmt: skip
            arguments["max_tokens"] = asked.max_completion_tokens
        names = _names(asked)
        _tools(asked, arguments, names, ignored)
        if asked.response_format is not None:
            arguments["response_format"] = bounded(asked.response_format, "response_format", MAX_SCHEMA)
        if asked.logprobs:
            arguments["logprobs"] = asked.top_logprobs or 0
        elif asked.top_logprobs:
            raise InvalidRequestError("top_logprobs needs logprobs: true.", param="top_logprobs")
        reasoning = _reasoning(asked)
        if reasoning is not None:
            arguments["reasoning"] = reasoning
        return Call(
            arguments=replies(asked.n, asked.seed, arguments),
            model=asked.model,
            stream=bool(asked.stream),
            ignored=ignored,
            remote_images=remote,
            names=FieldNames(names),
            options=bool(asked.stream_options is not None and asked.stream_options.include_usage),
        )

    def response_body(self, call: Call, head: Head, responses: list[LLMResponse]) -> bytes:
        """A `chat.completion`."""
        return msgspec.json.encode(
            {
                "id": f"chatcmpl-{head.id}",
                "object": "chat.completion",
                "created": head.created,
                "model": head.model,
                "choices": [_choice(response, index) for index, response in enumerate(responses)],
                "usage": usage_object(usage_of_choices(responses, 1)),
            }
        )

    def stream(self, call: Call, head: Head) -> ChatStream:
        """The writer of `chat.completion.chunk` events."""
        return ChatStream(head, include_usage=bool(call.options))


def _names(asked: ChatBody) -> dict[str, str]:
    """The client's own names of what it sent."""
    switched = asked.reasoning_effort is None and asked.chat_template_kwargs
    return {
        **sampling_names(asked),
        "reasoning": "chat_template_kwargs.enable_thinking" if switched else "reasoning_effort",
        "logprobs": "top_logprobs" if asked.top_logprobs else "logprobs",
        "max_tokens": "max_tokens" if asked.max_completion_tokens is None else "max_completion_tokens",
    }


def _choice(response: LLMResponse, index: int) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": response.content if response.content or not response.tool_calls else None,
        "refusal": None,
    }
    if response.reasoning is not None:
        message["reasoning_content"] = response.reasoning
    if response.tool_calls:
        message["tool_calls"] = response.tool_calls
    logprobs = None
    if response.logprobs is not None:
        logprobs = {"content": [logprob_entry(one) for one in response.logprobs], "refusal": None}
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": response.finish_reason or "stop",
    }


def _without_effect(asked: ChatBody) -> list[str]:
    """Refuse by name what we do not have; return what is sent out of habit and changes nothing here."""
    for name, instead in _LACKING.items():
        if getattr(asked, name):
            raise UnsupportedFeatureError(f"{name} is not supported.", param=name, hint=instead)
    if asked.store:
        raise UnsupportedFeatureError("store: nothing is stored here.", param="store", hint="Leave it out.")
    if asked.service_tier not in (None, "auto", "default"):
        raise UnsupportedFeatureError(
            f"There is no service_tier {asked.service_tier!r} here.", param="service_tier", hint="Leave it out."
        )
    if asked.modalities not in (None, ["text"]):
        raise UnsupportedFeatureError(
            f'modalities must be ["text"], not {asked.modalities!r}.', param="modalities", hint="Leave it out."
        )
    names = ("prediction", "verbosity", "prompt_cache_retention", "prompt_cache_options")
    return [name for name in names if getattr(asked, name) is not None]


_LACKING = {
    "audio": "Replies are text.",
    "functions": "Use tools, which replaced it.",
    "function_call": "Use tool_choice, which replaced it.",
    "web_search_options": "Give the model a tool that searches.",
    "moderation": "Leave it out.",
}


def chat_messages(messages: list[dict[str, Any]], ignored: list[str], remote: list[str]) -> list[dict[str, Any]]:
    """The turns as the service takes them, which is as OpenAI has them: what says nothing to a model is told as
    ignored, what is gone from OpenAI's API too is refused.
    """
    check_length(messages, "messages")
    check_arguments(_arguments(messages), "messages")
    for place, message in enumerate(messages):
        role = message.get("role")
        if role == "function":
            raise UnsupportedFeatureError(
                f"messages[{place}].role function is not supported.", param=f"messages[{place}].role",
                hint="Use role tool with tool_call_id, which replaced it.",
            )  # fmt: skip
        for name in ("audio", "function_call"):
            if message.pop(name, None):
                raise UnsupportedFeatureError(
                    f"messages[{place}].{name} is not supported.", param=f"messages[{place}].{name}",
                    hint="Put what it says into content.",
                )  # fmt: skip
        told = [name for name in ("annotations", "cache_control") if message.pop(name, None)]
        content = message.get("content")
        marked = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
        if [part for part in marked if part.pop("cache_control", None) is not None]:
            told.append("content.cache_control")  # engines here cache by themselves
        if role == "tool" and (named := message.pop("tool_name", None)) is not None:
            message.setdefault("name", named)  # Ollama's word
        if role != "tool" and message.pop("name", None) is not None:
            told.append("name")  # no engine's template shows it to the model
        ignored += [f"messages.{name}" for name in told if f"messages.{name}" not in ignored]
        check_parts(message, f"messages[{place}]", remote)
    return messages


def _arguments(messages: list[dict[str, Any]]) -> Iterator[str]:
    for message in messages:
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            function = call.get("function") if isinstance(call, dict) else None
            text = function.get("arguments") if isinstance(function, dict) else None
            if isinstance(text, str):
                yield text


def _tools(asked: ChatBody, arguments: dict[str, Any], names: dict[str, str], ignored: list[str]) -> None:
    if asked.tools:
        arguments["tools"] = bounded(asked.tools, "tools")
        if any(isinstance(tool, dict) and tool.get("cache_control") is not None for tool in asked.tools):
            ignored.append("tools.cache_control")
        if asked.tool_choice is not None:
            arguments["tool_choice"] = bounded(asked.tool_choice, "tool_choice")
            allow_tools(arguments, names)
        if asked.parallel_tool_calls is not None:
            arguments["parallel_tool_calls"] = asked.parallel_tool_calls
    elif asked.tool_choice not in (None, "none", "auto"):
        raise InvalidRequestError("tool_choice needs tools.", param="tool_choice")


def _reasoning(asked: ChatBody) -> bool | str | None:
    wanted: bool | str | None = None
    for name, value in (asked.chat_template_kwargs or {}).items():
        if name != "enable_thinking" or not isinstance(value, bool):
            raise UnsupportedFeatureError(
                f"chat_template_kwargs.{name} is not supported.", param=f"chat_template_kwargs.{name}",
                hint="Only enable_thinking is, true or false.",
            )  # fmt: skip
        wanted = value
    effort = asked.reasoning_effort
    if effort is None:
        return wanted
    if effort not in _EFFORTS:
        raise InvalidRequestError(
            f"reasoning_effort must be one of {', '.join(_EFFORTS)}, not {effort!r}.", param="reasoning_effort"
        )
    return False if effort == "none" else effort
