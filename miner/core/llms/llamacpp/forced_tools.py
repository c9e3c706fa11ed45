"""Forced tool calls on llama.cpp: `tool_choice` "required", or a function's name.

The server reads "required" as "do not end without a call", so that a small model writes text until max_tokens is spent;
and it has no choice by name. So the reply is constrained to the call as JSON, with the tools in the prompt as always,
and converted to `tool_calls` here.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from miner.core.llms.contract.stream import Batches
from miner.core.llms.contract.tools import chosen_tool, new_tool_call, tool_names
from miner.core.llms.schema.support import LlamaSchema, llama_schema, parameters_of
from miner.core.wire import ChatRequest, LLMChunk, ToolCall


def is_forced(request: ChatRequest) -> bool:
    """Whether the reply must be a tool call."""
    return request.tools is not None and request.tool_choice not in (None, "auto", "none")


def is_either(request: ChatRequest) -> bool:
    """Whether the reply may be a call or JSON of `response_format`: the server would allow only the JSON."""
    wanted = request.response_format
    may_call = request.tools is not None and request.tool_choice in (None, "auto")
    return may_call and wanted is not None and wanted.kind in ("json_schema", "json_object")


def constrain_to_call(body: dict[str, Any], request: ChatRequest) -> None:
    """Constrain the reply to one call, or to a call or JSON of `response_format`."""
    named = chosen_tool(request.tool_choice)
    places = [place for place, tool in enumerate(request.tools or ()) if named in (None, tool["function"]["name"])]
    names = [(request.tools or [])[place]["function"]["name"] for place in places]
    schemas: list[Any] = [parameters_of((request.tools or [])[place]) for place in places]
    if is_either(request) and request.response_format is not None:
        schemas.append(request.response_format.schema or {"type": "object"})

    def either(translated: list[Any]) -> dict[str, Any]:
        forms = [_call_schema(name, arguments) for name, arguments in zip(names, translated, strict=False)]
        forms += translated[len(names) :]
        return forms[0] if len(forms) == 1 else {"anyOf": forms}

    body["tool_choice"] = "none"  # the tools stay in the prompt; the schema constrains the reply
    # The server's grammar allows a Markdown fence around the JSON, which would hide whether it is a call.
    allowed = request.resolution.grammar_allowed
    schema = llama_schema(schemas, names, bounds=allowed, combine=either, always=is_either(request))
    constrain(body, schema, "call")


def constrain(body: dict[str, Any], schema: LlamaSchema, name: str) -> None:
    """Constrain the reply to what is valid under this schema."""
    for other in ("grammar", "json_schema", "response_format"):
        body.pop(other, None)
    if schema.grammar is not None:
        body["grammar"] = schema.grammar
    else:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": name, "schema": schema.schema}}


def _call_schema(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The schema of the JSON of a call."""
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


async def as_calls(batches: AsyncIterator[list[LLMChunk]], request: ChatRequest) -> Batches:
    """The same reply with its JSON text as one tool call, in the last chunk; text that is no call stays text. A call
    that max_tokens truncated has truncated arguments, and the finish reason "length", as at OpenAI.
    """
    forced, named = is_forced(request), chosen_tool(request.tool_choice)
    names = tool_names(request.tools) if named is None else [named]
    schema = (request.response_format.schema if request.response_format is not None else None) or {}
    others = () if forced else schema.get("properties") or ("name",)
    written: list[str] = []
    async for batch in batches:
        kept = []
        for chunk in batch:
            if chunk.content is not None:
                written.append(chunk.content)
                chunk.content = None
            if chunk.finish_reason is not None:
                text = "".join(written)
                call = _call(text, names)
                begun = _begun_call(text, names, others, forced=forced) if chunk.finish_reason != "stop" else None
                if call is not None:
                    chunk.tool_calls = [call]
                    chunk.finish_reason, chunk.stop_sequence = "tool_calls", None
                elif begun is not None:
                    chunk.tool_calls = [begun]
                elif not (forced and chunk.finish_reason != "stop" and text.lstrip()[:1] in ("", "{")):
                    chunk.content = text or None
            if chunk != LLMChunk():
                kept.append(chunk)
        if kept:
            yield kept


def _call(text: str, names: list[str]) -> ToolCall | None:
    try:
        value = msgspec.json.decode(text)
        if set(value) != {"name", "arguments"} or value["name"] not in names:
            return None
        return new_tool_call(value["name"], msgspec.json.encode(value["arguments"]).decode())
    except (msgspec.DecodeError, RecursionError, TypeError):
        return None


_BEGUN = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*(?:,\s*(?:"arguments"\s*:\s*(.*))?)?', re.DOTALL)
"""The grammar has the name first."""
_NAMING = re.compile(r'\s*\{\s*"(n|na|nam|name)(?:"\s*(?::\s*(?:"([^"\\]*))?)?)?\Z')
"""Truncated in the name, or before it."""


def _begun_call(text: str, names: list[str], others: Any, *, forced: bool) -> ToolCall | None:
    """The truncated call at the end of a text, if its name is certain; its arguments are incomplete JSON.

    Args:
        others: keys with which the JSON of `response_format` may begin.
    """
    found, naming = _BEGUN.match(text), _NAMING.match(text)
    if found is not None:
        try:
            name = msgspec.json.decode(found.group(1))
        except msgspec.DecodeError:
            return None
        return new_tool_call(name, found.group(2) or "") if name in names else None
    is_call = naming is not None and not any(other.startswith(naming.group(1)) for other in others)
    if is_call or (forced and text.lstrip()[:1] in ("", "{")):
        begun = (naming.group(2) if naming is not None else None) or ""
        possible = [name for name in names if name.startswith(begun)]
        return new_tool_call(possible[0], "") if len(possible) == 1 else None
    return None
