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
    """The same reply with its JSON text as one call, which comes whole at the end; text that is no call stays text. A
    call that max_tokens cut has the arguments as far as they came, and the finish reason "length", as at OpenAI.
    """
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
                if call is not None:
                    chunk.tool_calls = [call]
                    chunk.finish_reason = "tool_calls"
                elif chunk.finish_reason == "length" and text.lstrip()[:1] in ("", "{"):
                    call = _begun_call(text)
                    chunk.tool_calls = None if call is None else [call]
                else:
                    chunk.content = text or None
            if chunk != LLMChunk():
                kept.append(chunk)
        if kept:
            yield kept


def _call(text: str) -> ToolCall | None:
    try:
        value = msgspec.json.decode(text)
        return _made(value["name"], msgspec.json.encode(value["arguments"]).decode())
    except (msgspec.DecodeError, KeyError, TypeError):
        return None


_BEGUN = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*(?:,\s*(?:"arguments"\s*:\s*(.*))?)?', re.DOTALL)
"""The grammar writes the name first."""


def _begun_call(text: str) -> ToolCall | None:
    """The call at which a text stops, from its name on; its arguments are no JSON."""
    found = _BEGUN.match(text)
    if found is None:
        return None
    try:
        return _made(msgspec.json.decode(found.group(1)), found.group(2) or "")
    except msgspec.DecodeError:
        return None


def _made(name: str, arguments: str) -> ToolCall:
    return {
        "index": 0,
        "id": f"call_{secrets.token_hex(8)}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
