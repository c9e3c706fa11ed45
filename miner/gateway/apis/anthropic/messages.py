"""Anthropic's `/v1/messages` and `/v1/messages/count_tokens`."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from miner.core.wire import LLMResponse
from miner.errors import UnsupportedFeatureError
from miner.gateway.apis.anthropic.blocks import decode_request
from miner.gateway.apis.anthropic.convert import convert_messages, reasoning_argument, sampling_arguments
from miner.gateway.apis.anthropic.response import content_blocks, message_object, stop_fields, usage_object
from miner.gateway.apis.anthropic.schema import AnthropicCountTokensRequest, AnthropicMessagesRequest
from miner.gateway.apis.anthropic.stream import PING, MessageStream
from miner.gateway.apis.anthropic.tools import tool_arguments
from miner.gateway.context import RequestContext
from miner.gateway.dialect import Call, Head
from miner.gateway.field_names import FieldNames
from miner.gateway.generation import json_response, send_reply
from miner.gateway.neutralize import neutralize
from miner.gateway.request_body import off_loop, parse_body
from miner.gateway.token_count import count_tokens as count_prompt

_MESSAGES = msgspec.json.Decoder(AnthropicMessagesRequest)
_COUNT_TOKENS = msgspec.json.Decoder(AnthropicCountTokensRequest)
_CHANGING = {
    "container": "Nothing is executed here.",
    "inference_geo": "The model runs where this server's operator runs it.",
    "mcp_servers": "Give the model tools, and call the servers yourself.",
    "thread": "Send the whole conversation.",
}
"""Fields that nothing here supports and that change the response, with what to do instead."""
_ONLY_MESSAGES = frozenset(AnthropicMessagesRequest.__struct_fields__) - {
    *AnthropicCountTokensRequest.__struct_fields__
}
_BYTES_PER_TOKEN = 4
_ADDING = (
    "context_management", "compaction", "fallbacks", "fallback_credit_token", "billing_policy", "betas", "diagnostics",
    "user_profile_id", "workspace_id",
)  # fmt: skip
"""Fields that nothing here supports and that only add: what Anthropic's server does before or behind the model."""


class AnthropicMessages:
    """The dialect of `/v1/messages`."""

    stream_type = "text/event-stream; charset=utf-8"
    id_prefix = "msg_"
    heartbeat = PING

    def parse(self, body: bytes) -> Call:
        """Parse a request body."""
        foreign: dict[str, Any] = {}
        request = decode_request(body, _MESSAGES, foreign)
        call = _call(request, foreign)
        if request.service_tier not in (None, "auto", "standard_only"):
            message = f"Unsupported value: 'service_tier' does not support {request.service_tier!r}."
            call.skip("service_tier", message, hint="Remove it.")
        call.stream = request.stream
        arguments = sampling_arguments(request, call)
        arguments["messages"] = convert_messages(request, call)
        if request.stream:
            arguments["prompt_usage"] = True
        call.arguments = [arguments | tool_arguments(request, call)]
        return call

    def response_body(self, call: Call, head: Head, responses: list[LLMResponse]) -> bytes:
        """A `message`."""
        response, request = responses[0], call.options
        content = content_blocks(response, shows_thinking=_shows_thinking(request))
        message = message_object(head, content, usage_object(response.usage), edits=_edits(request))
        stopped = stop_fields(
            response.finish_reason, exhausted=response.context_exhausted, sequence=response.stop_sequence
        )
        return msgspec.json.encode(message | stopped)

    def stream(self, call: Call, head: Head) -> MessageStream:
        """The writer of its events."""
        request = call.options
        return MessageStream(
            head, lambda: _estimated_tokens(call), shows_thinking=_shows_thinking(request), edits=_edits(request)
        )


def _shows_thinking(request: AnthropicMessagesRequest) -> bool:
    return request.thinking is None or request.thinking.display != "omitted"


def _edits(request: AnthropicCountTokensRequest) -> bool:
    return bool(request.context_management)


def _estimated_tokens(call: Call) -> int:
    """The tokens of the prompt, as far as its length tells."""
    arguments = call.arguments[0]
    texts = [arguments.get("tools")]
    for message in arguments["messages"]:
        content = message.get("content")
        texts += [part.get("text") for part in content] if isinstance(content, list) else [content]
        texts.append(message.get("tool_calls"))
    return max(1, sum(len(msgspec.json.encode(text)) for text in texts if text) // _BYTES_PER_TOKEN)


def _call(request: AnthropicCountTokensRequest, foreign: dict[str, Any]) -> Call:
    """The call, without its arguments."""
    call = Call(
        arguments=[], model=request.model, names=FieldNames(_names(request)), options=request,
        foreign=foreign, fields=AnthropicMessagesRequest.__struct_fields__,
    )  # fmt: skip
    if isinstance(request.thread, dict) and request.thread.get("type") == "continue":
        raise UnsupportedFeatureError(
            "Threads are not supported: nothing is kept of earlier messages.", param="thread",
            hint="Send the whole conversation.",
        )  # fmt: skip
    for name, hint in _CHANGING.items():
        if getattr(request, name, None):
            call.skip(name, hint=hint, changes=True)
    for name in _ADDING:
        if getattr(request, name, None):
            call.skip(name)
    if request.speed not in (None, "standard"):
        call.skip("speed")
    if _has_cache_control(request):
        call.ignored.append("cache_control")  # engines here cache by themselves: nothing is lost
    return call


def _names(request: AnthropicCountTokensRequest) -> dict[str, str]:
    """The client's fields for the service's parameters; `convert_messages` adds those of the messages."""
    thinking = request.thinking is not None and request.thinking.type == "enabled"
    effort = not thinking and request.output_config is not None and request.output_config.effort is not None
    return {
        "stop": "stop_sequences", "reasoning": "output_config.effort" if effort else "thinking",
        "response_format": "output_config.format", "response_format.json_schema": "output_config.format",
        "tools[*].function": "tools[*]", "tools[*].function.parameters": "tools[*].input_schema",
        "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
    }  # fmt: skip


def _has_cache_control(request: AnthropicCountTokensRequest) -> bool:
    """Whether the client marks what to cache. Engines here cache by themselves."""
    blocks: list[Any] = [block for one in request.messages if isinstance(one.content, list) for block in one.content]
    if isinstance(request.system, list):
        blocks += request.system
    return (
        request.cache_control is not None
        or any(block.cache_control is not None for block in blocks)
        or any(tool.get("cache_control") is not None for tool in request.tools or ())
    )


_DIALECT = AnthropicMessages()


async def messages(context: RequestContext) -> web.StreamResponse:
    """Create a message."""
    call = await parse_body(context, _DIALECT.parse)
    return await send_reply(context, _DIALECT, call)


async def count_tokens(context: RequestContext) -> web.StreamResponse:
    """Count the input tokens that a message would have."""
    foreign: dict[str, Any] = {}
    request = await parse_body(context, lambda body: decode_request(body, _COUNT_TOKENS, foreign))
    for name in foreign.keys() & _ONLY_MESSAGES:
        del foreign[name]
        context.ignored.append(name)  # it changes no count
    call = _call(request, foreign)
    converted = await off_loop(context, convert_messages, request, call)
    tools = (await off_loop(context, tool_arguments, request, call)).get("tools")
    reasoning = reasoning_argument(request, call)
    await context.start_call(call)
    counted = Call(arguments=[{"messages": converted}], names=call.names)
    context.ignored += neutralize(counted, context.gateway.client_lines)
    count = await count_prompt(context, call, messages=converted, model=request.model, tools=tools, reasoning=reasoning)
    edits = {"original_input_tokens": count} if _edits(request) else None
    return json_response(context, msgspec.json.encode({"input_tokens": count, "context_management": edits}))
