"""Replies that the engine's own parser could not read: the text that the model wrote, and the calls in it.

A model that writes a broken tool call, or text where its template's format wants a marker, is no failure of the server:
sending the request again is no cure, and what it wrote is its reply.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from miner.core.wire import ChatRequest, FinishReason, LLMChunk, ToolCall
from miner.errors import BackendProtocolError

__all__ = ["LostReplyError", "MalformedReplyError", "Sent", "calls_of", "malformed_reply", "rest_of"]

logger = logging.getLogger("miner.reply")

_SIGNS: Final = (
    "does not match the expected", "Failed to parse input", "Unexpected empty grammar stack", "error parsing tool call",
)  # fmt: skip
_RAW = re.compile(r"error parsing tool call: raw='(.*)', err=", re.DOTALL)
_DECODE = json.JSONDecoder(strict=False).raw_decode  # models write line breaks inside of strings
_NAMES = ("name", "tool_name", "tool", "function")
_ARGUMENTS = ("arguments", "parameters", "args", "input")
_BEFORE = 120
"""Characters before a JSON object in which its function's name may stand."""
_TRIES = 50
"""Places at which no JSON begins, after which the text is taken for text: each costs a look at all of it."""
_TAGGED = re.compile(
    r"<(?:function=|invoke name=\"|function name=\")([\w.-]+)\"?\s*>(.*?)(?:</(?:function|invoke)>|\Z)", re.DOTALL
)
_PARAMETER = re.compile(
    r"<(?:parameter=|parameter name=\"|param name=\")([\w.-]+)\"?[^>]*>(.*?)</(?:parameter|param)>", re.DOTALL
)
_MARKERS = re.compile(r"(?:\s+|<[^<>\n]*>|\[/?[A-Z_]+\]|>>>|```\w*|functools|functions\.|to=|:\d+|\[)+\Z")


class MalformedReplyError(BackendProtocolError):
    """The engine could not parse what the model wrote."""

    http_status = 422
    code = "malformed_reply"

    def __init__(self, message: str, *, raw: str | None = None, hint: str | None = None, **details: Any) -> None:
        details["retryable"] = False
        super().__init__(message, hint=hint, **details)
        self.raw = raw
        """What the model wrote, where the engine tells."""


class LostReplyError(BackendProtocolError):
    """The engine counted tokens and delivered none."""


class Sent:
    """What of a reply has gone to the caller."""

    __slots__ = ("calls", "content", "held", "nothing", "reasoning")

    def __init__(self) -> None:
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.calls: list[ToolCall] = []
        self.nothing = True
        """No text and no call has come yet."""
        self.held: list[LLMChunk] = []
        """An end before any text: it waits until it is sure that nothing was lost."""

    def note(self, batch: list[LLMChunk]) -> bool:
        """Keep the text of a batch; whether the batch may go on."""
        for chunk in batch:
            if chunk.content is not None:
                self.content.append(chunk.content)
                self.nothing = False
            if chunk.reasoning is not None:
                self.reasoning.append(chunk.reasoning)
                self.nothing = False
            if chunk.tool_calls is not None:
                self.calls += chunk.tool_calls
                self.nothing = False
        if self.nothing and (self.held or any(chunk.finish_reason is not None for chunk in batch)):
            self.held += batch
            return False
        return True


def malformed_reply(text: str, where: str, details: dict[str, Any]) -> MalformedReplyError | None:
    """The error behind an engine's message; None if it is about something else."""
    if not any(sign in text for sign in _SIGNS):
        return None
    found = _RAW.search(text)
    return MalformedReplyError(
        f"The model wrote a reply that {where} cannot parse in the format of its chat template.",
        raw=found[1] if found else None,
        hint="Try other sampling options, or a chat template that fits the model.",
        **details,
    )


def rest_of(request: ChatRequest, sent: list[ToolCall], error: MalformedReplyError) -> LLMChunk:
    """The end of a reply whose call the engine could not parse, made of the text that it tells.

    Args:
        sent: the calls that have gone to the caller.

    Raises:
        MalformedReplyError: it tells of none.
    """
    if error.raw is None:
        raise error
    logger.warning("%s Its text is taken as it is.", error.message)
    content, calls = calls_of(error.raw, request)
    begun = len({call.get("index", 0) for call in sent})
    for call in calls:
        call["index"] += begun
    finish: FinishReason = "tool_calls" if calls or begun else "stop"
    return LLMChunk(content or None, tool_calls=calls or None, finish_reason=finish)


def calls_of(raw: str, request: ChatRequest) -> tuple[str, list[ToolCall]]:
    """The text before the first call, and the calls that can be read: of tools that were offered, with arguments that
    their schemas allow. The whole text where there is none.
    """
    if request.tools is None or request.tool_choice == "none":
        return raw, []
    schemas = {tool["function"]["name"]: tool["function"].get("parameters") for tool in request.tools}
    calls: list[ToolCall] = []
    first = len(raw)
    for start, name, arguments in _found(raw, list(schemas)):
        if not _allowed(arguments, schemas[name]):
            continue
        first = min(first, start)
        text = msgspec.json.encode(arguments).decode()
        calls.append(
            {
                "index": len(calls),
                "id": f"call_{secrets.token_hex(8)}",
                "type": "function",
                "function": {"name": name, "arguments": text},
            }
        )
    if request.parallel_tool_calls is False:
        calls = calls[:1]
    return (_MARKERS.sub("", raw[:first]) if calls else raw), calls


def _found(raw: str, names: list[str]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Where each thing that may be a call begins, its function, its arguments."""
    tagged = [match for match in _TAGGED.finditer(raw) if match[1] in names and _PARAMETER.search(match[2])]
    if tagged:
        for match in tagged:
            yield match.start(), match[1], {key: _value(text) for key, text in _PARAMETER.findall(match[2])}
        return
    place = end = tries = 0
    while (place := raw.find("{", place)) >= 0 and tries < _TRIES:
        value, stop = _object(raw, place)
        if value is None:
            place += 1
            tries += 1
            continue
        if (call := _named(value, names)) is not None:
            yield place, *call
        else:
            before = raw[max(end, place - _BEFORE) : place]
            spoken = [(before.rfind(name), name) for name in names if _stands_in(name, before)]
            if spoken:
                at, name = max(spoken)
                yield place - len(before) + at, name, value
            elif len(names) == 1 and not raw[:place].strip():
                yield place, names[0], value  # only arguments: engines tell of a call's own text at times
        place = end = stop


def _object(raw: str, place: int) -> tuple[dict[str, Any] | None, int]:
    """The JSON object that begins there, also where only its last brackets are missing."""
    try:
        value, stop = _DECODE(raw, place)
    except (ValueError, RecursionError):
        rest = raw[place:].rstrip()
        for ending in ("}", "}}", "]}", "}]}"):
            try:
                value, stop = json.loads(rest + ending, strict=False), len(raw)
            except (ValueError, RecursionError):
                continue
            break
        else:
            return None, place
    return (value, stop) if isinstance(value, dict) else (None, place)


def _named(value: dict[str, Any], names: list[str]) -> tuple[str, dict[str, Any]] | None:
    """Function and arguments of an object that says both."""
    for key in ("function", "tool_call"):
        inner = value.get(key)
        if isinstance(inner, dict):
            return _named(inner, names)
    name = next((value[key] for key in _NAMES if value.get(key) in names), None)
    arguments: Any = next((value[key] for key in _ARGUMENTS if key in value), {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments, strict=False)
        except (ValueError, RecursionError):
            return None
    return (name, arguments) if name is not None and isinstance(arguments, dict) else None


def _stands_in(name: str, text: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None


def _value(text: str) -> Any:
    text = text.strip("\n")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _allowed(arguments: dict[str, Any], schema: Any) -> bool:
    if not schema:
        return True
    import jsonschema_rs

    try:
        return bool(jsonschema_rs.is_valid(schema, arguments, retriever=_never_fetched))
    except (jsonschema_rs.ValidationError, ValueError):
        return True  # the schema is at fault, not the call


def _never_fetched(address: str) -> Any:
    raise ValueError(f"{address} is not fetched")
