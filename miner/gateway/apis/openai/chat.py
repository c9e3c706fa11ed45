"""OpenAI's `/v1/chat/completions`."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from miner.core.llms.contract.request import REASONING_LEVELS
from miner.core.wire import LLMResponse
from miner.errors import InvalidRequestError
from miner.gateway.apis.fields import logprobs_argument, set_fields
from miner.gateway.apis.openai.convert import (
    choice_arguments,
    choice_options,
    convert_messages,
    sampling_arguments,
    sampling_names,
    tool_arguments,
)
from miner.gateway.apis.openai.custom_tools import convert_choice, convert_history, convert_tools
from miner.gateway.apis.openai.legacy_functions import function_tools
from miner.gateway.apis.openai.response import FINGERPRINT, SERVICE_TIER, chat_choice, usage_of_responses
from miner.gateway.apis.openai.schema import ChatCompletionRequest
from miner.gateway.apis.openai.stream import HEARTBEAT, STREAM_TYPE, ChatStream, timings_of, without_text
from miner.gateway.body_structure import bounded
from miner.gateway.context import RequestContext
from miner.gateway.dialect import Call, Head
from miner.gateway.field_names import FieldNames
from miner.gateway.generation import json_response
from miner.gateway.request_body import decode, parse_body

_DECODER = msgspec.json.Decoder(ChatCompletionRequest)
_EFFORTS = ("none", *REASONING_LEVELS)
_SKIPPED = {
    "audio": "Only text is generated.",
    "web_search_options": "Give the model a tool that searches.",
    "moderation": "Remove it.",
    "store": "Nothing is stored.",
}
"""Left out by default, each with what to do instead: what they would add is missing in the response."""
_IGNORED = ("prediction", "verbosity", "prompt_cache_retention", "prompt_cache_options")
"""Listed as ignored. Accepted silently are `user`, `metadata`, `safety_identifier` and `prompt_cache_key`: they are for
OpenAI's own records and change no response.
"""


class OpenAIChat:
    """The dialect of `/v1/chat/completions`."""

    stream_type = STREAM_TYPE
    id_prefix = "chatcmpl-"
    heartbeat = HEARTBEAT

    def parse(self, body: bytes) -> Call:
        """Parse a request body."""
        foreign: dict[str, Any] = {}
        request = decode(body, _DECODER, foreign)
        call = Call(
            arguments=[],
            model=request.model,
            stream=bool(request.stream),
            ignored=list(set_fields(request, _IGNORED)),
            names=FieldNames(_names(request)),
            options=choice_options(request),
            foreign=foreign,
            fields=ChatCompletionRequest.__struct_fields__,
        )
        _skip_unsupported(request, call)
        arguments = sampling_arguments(request)
        convert_history(request.messages)
        arguments["messages"] = convert_messages(request.messages, call)
        old, new = request.max_tokens, request.max_completion_tokens
        if new is not None:
            if old not in (None, new):
                raise InvalidRequestError(
                    f"max_tokens {old} and max_completion_tokens {new} differ.", param="max_tokens",
                    hint="Send only one of them.",
                )  # fmt: skip
            arguments["max_tokens"] = new or 1
        tools, choice, parallel = request.tools, request.tool_choice, request.parallel_tool_calls
        if request.functions or request.function_call:
            tools, choice = function_tools(request, call.names)
            parallel, call.options.functions = False, True
        bounded(tools, "tools")
        if any(isinstance(tool, dict) and tool.get("cache_control") is not None for tool in tools or ()):
            call.ignored.append("tools.cache_control")
        tools, call.options.custom_tools = convert_tools(tools, call)
        arguments |= tool_arguments(tools, convert_choice(choice), parallel, call.names)
        if request.logprobs or not request.n_probs:
            arguments |= logprobs_argument(request.logprobs, request.top_logprobs)
        reasoning = _reasoning(request, call)
        if reasoning is not None:
            arguments["reasoning"] = reasoning
        call.arguments = choice_arguments(request.n, request.seed, arguments)
        return call

    def response_body(self, call: Call, head: Head, responses: list[LLMResponse]) -> bytes:
        """A `chat.completion`."""
        if call.options.prompt_only:
            without_text(responses)
        choices = [chat_choice(response, index, call.options) for index, response in enumerate(responses)]
        return msgspec.json.encode(
            {
                "id": f"chatcmpl-{head.id}",
                "object": "chat.completion",
                "created": head.created,
                "model": head.model,
                "choices": choices,
                "usage": usage_of_responses(responses),
                "service_tier": SERVICE_TIER,
                "system_fingerprint": FINGERPRINT,
                **timings_of(call.options, responses),
            }
        )

    def stream(self, call: Call, head: Head) -> ChatStream:
        """The writer of `chat.completion.chunk` events."""
        return ChatStream(head, call.options)


_DIALECT = OpenAIChat()


async def chat_input_tokens(context: RequestContext) -> web.StreamResponse:
    """Count the tokens that the prompt of a chat completion would have."""
    call = await parse_body(context, _DIALECT.parse)
    arguments = call.arguments[0]
    await context.start_call(Call(arguments=[], model=call.model, names=call.names))
    with call.names.translate_errors():
        count = await context.gateway.service.count_tokens(
            messages=arguments["messages"], model=call.model, tools=arguments.get("tools")
        )
    return json_response(
        context, msgspec.json.encode({"object": "chat.completion.input_tokens", "input_tokens": count})
    )


def _names(request: ChatCompletionRequest) -> dict[str, str]:
    """The client's fields for the service's parameters, where they differ."""
    template = request.reasoning_effort is None and request.chat_template_kwargs
    return {
        **sampling_names(request),
        "reasoning": "chat_template_kwargs.enable_thinking" if template else "reasoning_effort",
        "logprobs": "top_logprobs" if request.top_logprobs else "logprobs" if request.logprobs else "n_probs",
        **({} if request.max_completion_tokens is None else {"max_tokens": "max_completion_tokens"}),
    }


def _skip_unsupported(request: ChatCompletionRequest, call: Call) -> None:
    for name, hint in _SKIPPED.items():
        if getattr(request, name):
            call.skip(name, hint=hint)
    if request.service_tier not in (None, "auto", "default"):
        call.skip(
            "service_tier", f"Unsupported value: 'service_tier' does not support {request.service_tier!r}.",
            hint="Remove it.",
        )  # fmt: skip
    if request.modalities not in (None, [], ["text"]):
        text = "text" in (request.modalities or ())
        call.skip(
            "modalities", f'modalities must be ["text"], not {request.modalities!r}.', hint="Remove it.",
            changes=not text,
        )  # fmt: skip


def _reasoning(request: ChatCompletionRequest, call: Call) -> bool | str | None:
    """`reasoning`; the other arguments of the template are left to the engine."""
    others = dict(request.chat_template_kwargs or {})
    enabled = others.pop("enable_thinking", None)
    if enabled is not None and not isinstance(enabled, bool):
        name = "chat_template_kwargs.enable_thinking"
        raise InvalidRequestError(f"{name} must be true or false, not {enabled!r}.", param=name)
    if others:
        call.foreign["chat_template_kwargs"] = bounded(others, "chat_template_kwargs")
    effort = request.reasoning_effort
    if effort is None:
        return enabled
    if effort not in _EFFORTS:
        raise InvalidRequestError(
            f"reasoning_effort must be one of {', '.join(_EFFORTS)}, not {effort!r}.", param="reasoning_effort"
        )
    return False if effort == "none" else effort
