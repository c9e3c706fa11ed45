"""Anthropic's `/v1/messages` and `/v1/messages/count_tokens`."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from miner.core.wire import LLMResponse
from miner.errors import InvalidRequestError, MinerError, UnsupportedFeatureError
from miner.gateway.apis.anthropic.convert import tool_arguments, turns
from miner.gateway.apis.anthropic.errors import stop_reason, usage_object
from miner.gateway.apis.anthropic.schema import (
    AnthropicCountBody,
    AnthropicMessagesBody,
)
from miner.gateway.apis.anthropic.stream import PING, MessageStream
from miner.gateway.apis.base import Call, Head
from miner.gateway.body_limits import MAX_SCHEMA, bounded
from miner.gateway.context import RequestContext
from miner.gateway.errors import RefusedError
from miner.gateway.field_names import FieldNames
from miner.gateway.generation import json_response, reply
from miner.gateway.request_body import decode, decode_body, off_loop, parse_body

__all__ = ["AnthropicMessages", "count_tokens", "messages"]

_MESSAGES = msgspec.json.Decoder(AnthropicMessagesBody)
_COUNT = msgspec.json.Decoder(AnthropicCountBody)
_LACKING = {
    "container": "Nothing is run here.",
    "inference_geo": "The model runs where this server's operator runs it.",
    "mcp_servers": "Give the model tools, and call the servers yourself.",
}


class AnthropicMessages:
    """The dialect of `/v1/messages`."""

    stream_type = "text/event-stream; charset=utf-8"
    heartbeat = PING

    def parse(self, body: bytes) -> Call:
        """Read a body."""
        asked = decode(body, _MESSAGES)
        ignored = _without_effect(asked)
        arguments: dict[str, Any] = {"model": asked.model, "max_tokens": asked.max_tokens}
        for name in ("temperature", "top_p"):
            value = getattr(asked, name)
            if value is not None:
                arguments[name] = value
        if asked.top_k:
            arguments["top_k"] = asked.top_k
        if asked.stop_sequences:
            arguments["stop"] = asked.stop_sequences
        remote: list[str] = []
        names = _names(asked)
        arguments["messages"] = turns(asked, ignored, remote, names)
        arguments.update(tool_arguments(asked, ignored))
        if asked.output_config is not None and asked.output_config.format is not None:
            arguments["response_format"] = _format(asked.output_config.format)
        arguments.update(_thoughts(asked, ignored))
        return Call(
            [arguments],
            asked.model,
            asked.stream,
            ignored,
            remote_images=remote,
            names=FieldNames(names),
            options=asked,
        )

    def response_body(self, call: Call, head: Head, responses: list[LLMResponse]) -> bytes:
        """A message in one piece."""
        response = responses[0]
        return msgspec.json.encode(
            {
                "id": f"msg_{head.id}",
                "type": "message",
                "role": "assistant",
                "model": head.model,
                "content": _blocks(response),
                "stop_reason": stop_reason(
                    response.finish_reason, exhausted=response.context_exhausted, sequence=response.stop_sequence
                ),
                "stop_sequence": response.stop_sequence,
                "usage": usage_object(response.usage),
            }
        )

    def stream(self, call: Call, head: Head) -> MessageStream:
        """The writer of events."""
        return MessageStream(head)


def _blocks(response: LLMResponse) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if response.reasoning:
        blocks.append({"type": "thinking", "thinking": response.reasoning, "signature": ""})
    if response.content:
        blocks.append({"type": "text", "text": response.content})
    for call in response.tool_calls or ():
        function = call["function"]
        try:
            given = msgspec.json.decode(function["arguments"] or "{}")
        except (msgspec.DecodeError, RecursionError):
            continue  # cut short: stop_reason says "max_tokens"
        blocks.append({"type": "tool_use", "id": call["id"], "name": function["name"], "input": given})
    return blocks


def _names(asked: AnthropicCountBody) -> dict[str, str]:
    """The service's names of what has another one here; `turns` adds those of the messages."""
    thinking = asked.thinking is not None and asked.thinking.type == "enabled"
    effort = not thinking and asked.output_config is not None and asked.output_config.effort is not None
    return {
        "stop": "stop_sequences", "reasoning": "output_config.effort" if effort else "thinking",
        "response_format": "output_config.format", "response_format.json_schema": "output_config.format",
        "tools[*].function": "tools[*]", "tools[*].function.parameters": "tools[*].input_schema",
        "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
    }  # fmt: skip


def _without_effect(asked: AnthropicCountBody) -> list[str]:
    """Refuse by name what there is not; return what changes nothing here."""
    for name, instead in _LACKING.items():
        if getattr(asked, name, None):
            raise UnsupportedFeatureError(f"{name} is not supported.", param=name, hint=instead)
    names = ["context_management", "user_profile_id", "workspace_id", "diagnostics"]
    ignored = [name for name in names if getattr(asked, name, None)]
    if _cached(asked):
        ignored.append("cache_control")
    if asked.speed not in (None, "standard"):
        ignored.append("speed")
    if isinstance(asked, AnthropicMessagesBody) and asked.service_tier not in (None, "auto", "standard_only"):
        raise UnsupportedFeatureError(
            f"There is no service_tier {asked.service_tier!r} here.", param="service_tier", hint="Leave it out."
        )
    return ignored


def _cached(asked: AnthropicCountBody) -> bool:
    """Whether the client marks what to cache. Engines here cache by themselves."""
    blocks: list[Any] = [block for turn in asked.messages if isinstance(turn.content, list) for block in turn.content]
    if isinstance(asked.system, list):
        blocks += asked.system
    return (
        asked.cache_control is not None
        or any(block.cache_control is not None for block in blocks)
        or any(tool.get("cache_control") is not None for tool in asked.tools or ())
    )


def _format(given: dict[str, Any]) -> dict[str, Any]:
    if given.get("type") != "json_schema" or not isinstance(given.get("schema"), dict):
        raise InvalidRequestError(
            'output_config.format must be {"type": "json_schema", "schema": {...}}.', param="output_config.format"
        )
    return {
        "type": "json_schema",
        "json_schema": {"schema": bounded(given["schema"], "output_config.format.schema", MAX_SCHEMA)},
    }


def _thoughts(asked: AnthropicMessagesBody, ignored: list[str]) -> dict[str, Any]:
    """What `thinking` and `effort` ask for. Left open (no thinking, or adaptive), the model does as it does."""
    thinking = asked.thinking
    effort = asked.output_config.effort if asked.output_config is not None else None
    if thinking is not None:
        if thinking.budget_tokens is not None:
            ignored.append("thinking.budget_tokens")  # no engine here counts thoughts apart
        if thinking.display == "omitted":
            ignored.append("thinking.display")
        if thinking.type == "disabled":
            if effort is not None:
                ignored.append("output_config.effort")
            return {"reasoning": False}
    if effort is not None:
        return {"reasoning": effort}
    return {"reasoning": True} if thinking is not None and thinking.type == "enabled" else {}


_DIALECT = AnthropicMessages()


async def messages(context: RequestContext) -> web.StreamResponse:
    """The next turn of a conversation."""
    call = await parse_body(context, _DIALECT.parse)
    asked: AnthropicMessagesBody = call.options
    wants = asked.thinking is not None and asked.thinking.type == "enabled"
    if not wants and call.arguments[0].get("reasoning") and not await _thinks(context, asked.model):
        # How hard to try is left to the model, and this one does not think.
        call.ignored.append("output_config.effort")
        del call.arguments[0]["reasoning"]
    return await reply(context, _DIALECT, call)


async def _thinks(context: RequestContext, model: str) -> bool:
    """Whether a model thinks, as far as can be told before it is asked."""
    service = context.gateway.service
    try:
        info = await service.resolve_model(model)
    except MinerError:
        info = None  # the request itself will say why
    able = None if info is None else info.capabilities
    return "reasoning" in (service.capabilities if able is None else able)


async def count_tokens(context: RequestContext) -> web.StreamResponse:
    """Tokens that a conversation would take."""
    asked = await decode_body(context, _COUNT)
    context.ignored += _without_effect(asked)
    remote: list[str] = []
    names = _names(asked)
    conversation = await off_loop(context, turns, asked, context.ignored, remote, names)
    tools = (await off_loop(context, tool_arguments, asked, context.ignored)).get("tools")
    await context.enter(Call(arguments=[], model=asked.model, remote_images=remote))
    service = context.gateway.service
    try:
        with FieldNames(names).translate_errors():
            count = await service.count_tokens(messages=conversation, model=asked.model, tools=tools)
    except UnsupportedFeatureError as error:
        if error.param != "count_tokens":
            raise
        raise RefusedError(
            501, "unsupported_feature", f"{service.name} cannot count tokens.", hint="A reply's usage tells them."
        ) from error
    return json_response(context, msgspec.json.encode({"input_tokens": count}))
