"""Tool calls that must come, on llama.cpp.

Its server reads "required" as "do not end without a call": a small model talks until max_tokens is spent; and it does
not understand a choice by name at all. So the call is asked for as JSON that a schema enforces, with the tools in the
prompt as ever, and is made into a call here.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from miner.core.llms.stream import Batches
from miner.core.llms.tools import chosen_tool
from miner.core.wire import ChatRequest, LLMChunk, ToolCall

__all__ = ["as_calls", "force_call", "is_forced"]


def is_forced(request: ChatRequest) -> bool:
    """Whether a call must come."""
    return request.tools is not None and request.tool_choice not in (None, "auto", "none")


def force_call(body: dict[str, Any], request: ChatRequest) -> None:
    """Make the body ask for one call and nothing else."""
    named = chosen_tool(request.tool_choice)
    functions = [tool["function"] for tool in request.tools or ()]
    forms = [_form(function) for function in functions if named in (None, function["name"])]
    schema = forms[0] if len(forms) == 1 else {"anyOf": forms}
    body["tool_choice"] = "none"  # the tools stay in the prompt; the schema decides what is written
    body["response_format"] = {"type": "json_schema", "json_schema": {"name": "call", "schema": schema}}


def _form(function: dict[str, Any]) -> dict[str, Any]:
    """The schema of a call of this function."""
    arguments = function.get("parameters") or {"type": "object"}
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


async def as_calls(batches: AsyncIterator[list[LLMChunk]]) -> Batches:
    """The same reply with its JSON text as one call, which comes whole at the end; text that is no call stays text."""
    written: list[str] = []
    async for batch in batches:
        kept = []
        for chunk in batch:
            if chunk.content is not None:
                written.append(chunk.content)
                chunk.content = None
            if chunk.finish_reason is not None:
                text = "".join(written)
                call = _call(text)
                if call is None:
                    chunk.content = text
                else:
                    chunk.tool_calls = [call]
                    chunk.finish_reason = "tool_calls"
            if chunk != LLMChunk():
                kept.append(chunk)
        if kept:
            yield kept


def _call(text: str) -> ToolCall | None:
    try:
        value = msgspec.json.decode(text)
        arguments = msgspec.json.encode(value["arguments"]).decode()
        return {
            "index": 0,
            "id": f"call_{secrets.token_hex(8)}",
            "type": "function",
            "function": {"name": value["name"], "arguments": arguments},
        }
    except (msgspec.DecodeError, KeyError, TypeError):
        return None
