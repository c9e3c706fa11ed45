"""Forced tool calls on llama.cpp: `tool_choice` "required", or a function's name.

The server reads "required" as "do not end without a call", so that a small model writes text until max_tokens is spent;
and it has no choice by name. So the reply is constrained to the call as JSON, with the tools in the prompt as always,
and converted to `tool_calls` here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import msgspec

from miner.core.llms.contract.stream import Batches
from miner.core.llms.contract.tools import chosen_tool, new_tool_call, tool_names
from miner.core.llms.llamacpp.call_reader import CallReader
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
    """The same reply with its JSON text as one tool call, its arguments as they are generated; text that is no call
    stays text. A call that max_tokens truncated has truncated arguments, and the finish reason "length", as at OpenAI.
    """
    forced, named = is_forced(request), chosen_tool(request.tool_choice)
    parser = _ReplyParser(tool_names(request.tools) if named is None else [named], None if forced else request)
    async for batch in batches:
        kept = []
        for chunk in batch:
            if chunk.content is not None:
                text, calls = parser.feed(chunk.content)
                chunk.content, chunk.tool_calls = text or None, calls or None
            if chunk.finish_reason is not None:
                text, calls = parser.end(truncated=chunk.finish_reason != "stop")
                chunk.content = (chunk.content or "") + text or None
                chunk.tool_calls = [*(chunk.tool_calls or ()), *calls] or None
                if parser.complete:
                    chunk.finish_reason, chunk.stop_sequence = "tool_calls", None
            if chunk != LLMChunk():
                kept.append(chunk)
        if kept:
            yield kept


class _ReplyParser:
    """Reads a reply that is a call of one of these functions, or JSON of a `response_format`.

    Args:
        either: the request whose `response_format` it may follow; None: it must be a call.

    Attributes:
        complete: it was a complete call.
    """

    def __init__(self, names: list[str], either: ChatRequest | None) -> None:
        self._names = names
        self._call = CallReader(names)
        self._forced = either is None
        self._keys: Iterable[str] = ()
        """Keys with which the JSON of `response_format` may begin."""
        if either is not None and either.response_format is not None:
            self._keys = (either.response_format.schema or {}).get("properties") or ("name", "arguments")
        self._waits = {"name", "arguments"} <= set(self._keys)
        """Whether only the complete text shows which of both it is."""
        self._held: list[str] = []
        self._text = False
        self.complete = False

    def feed(self, text: str) -> tuple[str, list[ToolCall]]:
        """Return what is certainly text, and the deltas of the call."""
        if self._text:
            return text, []
        if self._waits:
            self._held.append(text)
            return "", []
        deltas, _ = self._call.feed(text)
        self._text = not self._call.possible and not self._forced
        return (self._call.raw if self._text else ""), deltas

    def end(self, *, truncated: bool) -> tuple[str, list[ToolCall]]:
        """Return the rest."""
        if self._text:
            return "", []
        if self._call.begun:
            self.complete = self._call.complete
            return "", []
        raw = "".join(self._held) if self._waits else self._call.raw
        whole = _call(raw, self._names)
        if whole is not None:
            self.complete = True
            return "", [whole]
        if truncated and self._waits:
            deltas, _ = self._call.feed(raw)
            if deltas:
                self.complete = self._call.complete
                return "", deltas
        if truncated and self._call.possible and (self._forced or self._call.names_function(self._keys)):
            begun = self._call.truncated()
            return ("", [begun]) if begun is not None else ("" if self._forced else raw, [])
        return raw, []


def _call(text: str, names: list[str]) -> ToolCall | None:
    try:
        value = msgspec.json.decode(text)
        if set(value) != {"name", "arguments"} or value["name"] not in names:
            return None
        return new_tool_call(value["name"], msgspec.json.encode(value["arguments"]).decode())
    except (msgspec.DecodeError, RecursionError, TypeError):
        return None
