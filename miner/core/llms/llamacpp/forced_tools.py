"""Tool calls that must come, on llama.cpp.

Its server reads "required" as "do not end without a call": a small model talks until max_tokens is spent; and it does
not understand a choice by name at all. So the call is asked for as JSON that a schema enforces, with the tools in the
prompt as ever, and is made into a call here.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from miner.core.llms.contract.stream import Batches
from miner.core.llms.contract.tools import chosen_tool, tool_names
from miner.core.llms.schema.support import LlamaSchema, llama_schema, parameters_of
from miner.core.wire import ChatRequest, LLMChunk, ToolCall

__all__ = ["as_calls", "ask_for_call", "constrain", "is_either", "is_forced"]


def is_forced(request: ChatRequest) -> bool:
    """Whether a call must come."""
    return request.tools is not None and request.tool_choice not in (None, "auto", "none")


def is_either(request: ChatRequest) -> bool:
    """Whether a call or JSON may come: its server would let nothing but the JSON through."""
    wanted = request.response_format
    may_call = request.tools is not None and request.tool_choice in (None, "auto")
    return may_call and wanted is not None and wanted.kind in ("json_schema", "json_object")


def ask_for_call(body: dict[str, Any], request: ChatRequest) -> None:
    """Make the body ask for one call and nothing else, or for a call or the format that is asked for besides."""
    named = chosen_tool(request.tool_choice)
    places = [place for place, tool in enumerate(request.tools or ()) if named in (None, tool["function"]["name"])]
    names = [(request.tools or [])[place]["function"]["name"] for place in places]
    schemas: list[Any] = [parameters_of((request.tools or [])[place]) for place in places]
    if is_either(request) and request.response_format is not None:
        schemas.append(request.response_format.schema or {"type": "object"})

    def either(made: list[Any]) -> dict[str, Any]:
        forms = [_form(name, arguments) for name, arguments in zip(names, made, strict=False)]
        forms += made[len(names) :]
        return forms[0] if len(forms) == 1 else {"anyOf": forms}

    body["tool_choice"] = "none"  # the tools stay in the prompt; the schema decides what is written
    # Its own grammar lets the JSON stand in a Markdown fence, which hides for long whether it is a call.
    allowed = request.resolution.grammar_allowed
    made = llama_schema(schemas, names, bounds=allowed, combine=either, always=is_either(request))
    constrain(body, made, "call")


def constrain(body: dict[str, Any], made: LlamaSchema, name: str) -> None:
    """Make the body ask for what is valid under this schema."""
    for other in ("grammar", "json_schema", "response_format"):
        body.pop(other, None)
    if made.grammar is not None:
        body["grammar"] = made.grammar
    else:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": name, "schema": made.schema}}


def _form(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The schema of a call of this function."""
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


async def as_calls(batches: AsyncIterator[list[LLMChunk]], request: ChatRequest) -> Batches:
    """The same reply with its JSON text as one call, which comes whole at the end; text that is no call stays text. A
    call that max_tokens cut has the arguments as far as they came, and the finish reason "length", as at OpenAI.
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
        return _made(value["name"], msgspec.json.encode(value["arguments"]).decode())
    except (msgspec.DecodeError, RecursionError, TypeError):
        return None


_BEGUN = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*(?:,\s*(?:"arguments"\s*:\s*(.*))?)?', re.DOTALL)
"""The grammar writes the name first."""
_NAMING = re.compile(r'\s*\{\s*"(n|na|nam|name)(?:"\s*(?::\s*(?:"([^"\\]*))?)?)?\Z')
"""Cut in the name, or before it."""


def _begun_call(text: str, names: list[str], others: Any, *, forced: bool) -> ToolCall | None:
    """The call at which a text stops, as soon as its name is clear; its arguments are no JSON.

    Args:
        others: the keys with which the JSON may begin that may come in its place.
    """
    found, naming = _BEGUN.match(text), _NAMING.match(text)
    if found is not None:
        try:
            name = msgspec.json.decode(found.group(1))
        except msgspec.DecodeError:
            return None
        return _made(name, found.group(2) or "") if name in names else None
    told = naming is not None and not any(other.startswith(naming.group(1)) for other in others)
    if told or (forced and text.lstrip()[:1] in ("", "{")):
        begun = (naming.group(2) if naming is not None else None) or ""
        possible = [name for name in names if name.startswith(begun)]
        return _made(possible[0], "") if len(possible) == 1 else None
    return None


def _made(name: str, arguments: str) -> ToolCall:
    return {
        "index": 0,
        "id": f"call_{secrets.token_hex(8)}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
