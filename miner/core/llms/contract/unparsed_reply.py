"""Replies that the engine's tool-call or reasoning parser rejected: their errors, and the tool calls in their text.

A model that writes a broken tool call, or text where its chat template's format requires a marker, is no server error:
a retry does not help, and that text is the reply.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from miner.core.llms.contract.structured import refuse_fetch
from miner.core.llms.contract.tools import new_tool_call
from miner.core.wire import ChatRequest, FinishReason, LLMChunk, ToolCall
from miner.errors import BackendProtocolError

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
_MAX_TRIES = 50
"""Braces at which no JSON object begins, after which the rest is text: each try may scan all of it."""
_TAGGED = re.compile(
    r"<(?:function=|invoke name=\"|function name=\")([\w.-]+)\"?\s*>(.*?)(?:</(?:function|invoke)>|\Z)", re.DOTALL
)
_PARAMETER = re.compile(
    r"<(?:parameter=|parameter name=\"|param name=\")([\w.-]+)\"?[^>]*>(.*?)</(?:parameter|param)>", re.DOTALL
)
_MARKERS = re.compile(r"(?:\s+|<[^<>\n]*>|\[/?[A-Z_]+\]|>>>|```\w*|functools|functions\.|to=|:\d+|\[)+\Z")


class MalformedReplyError(BackendProtocolError):
    """The engine's parser rejected the generated text."""

    http_status = 422
    code = "malformed_reply"

    def __init__(self, message: str, *, raw: str | None = None, hint: str | None = None, **details: Any) -> None:
        details["retryable"] = False
        super().__init__(message, hint=hint, **details)
        self.raw = raw
        """The generated text, if the error message has it."""


class LostReplyError(BackendProtocolError):
    """The engine counted tokens and delivered none."""


def malformed_reply_error(text: str, where: str, details: dict[str, Any]) -> MalformedReplyError | None:
    """The error for an engine's message; None if it is about something else."""
    if not any(sign in text for sign in _SIGNS):
        return None
    found = _RAW.search(text)
    return MalformedReplyError(
        f"The model's reply does not follow the format of its chat template: {where} cannot parse it.",
        raw=found[1] if found else None,
        hint="Try other sampling options.",
        operator_hint="Use a chat template that fits the model.",
        **details,
    )


def final_chunk(request: ChatRequest, sent: list[ToolCall], error: MalformedReplyError) -> LLMChunk:
    """The last chunk of a reply, made of the text in the engine's error.

    Args:
        sent: the tool calls that were delivered already.

    Raises:
        MalformedReplyError: `error`: it has no text.
    """
    if error.raw is None:
        raise error
    logger.warning("%s Returning its text as it is.", error.message)
    content, calls = parse_tool_calls(error.raw, request)
    begun = len({call.get("index", 0) for call in sent})
    for call in calls:
        call["index"] += begun
    finish: FinishReason = "tool_calls" if calls or begun else "stop"
    return LLMChunk(content or None, tool_calls=calls or None, finish_reason=finish)


def parse_tool_calls(raw: str, request: ChatRequest) -> tuple[str, list[ToolCall]]:
    """Return the text before the first call, and the calls: of tools of the request, with arguments that are valid
    under their schemas. All of the text if there is none.
    """
    if request.tools is None or request.tool_choice == "none":
        return raw, []
    schemas = {tool["function"]["name"]: tool["function"].get("parameters") for tool in request.tools}
    calls: list[ToolCall] = []
    first = len(raw)
    for start, name, arguments in _candidates(raw, list(schemas)):
        if not _is_valid(arguments, schemas[name]):
            continue
        first = min(first, start)
        text = msgspec.json.encode(arguments).decode()
        calls.append(new_tool_call(name, text, len(calls)))
    if request.parallel_tool_calls is False:
        calls = calls[:1]
    return (_MARKERS.sub("", raw[:first]) if calls else raw), calls


def _candidates(raw: str, names: list[str]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Position, function and arguments of each part that may be a call."""
    tagged = [match for match in _TAGGED.finditer(raw) if match[1] in names and _PARAMETER.search(match[2])]
    if tagged:
        for match in tagged:
            yield match.start(), match[1], {key: _value(text) for key, text in _PARAMETER.findall(match[2])}
        return
    place = end = tries = 0
    while (place := raw.find("{", place)) >= 0 and tries < _MAX_TRIES:
        value, stop = _object(raw, place)
        if value is None:
            place += 1
            tries += 1
            continue
        if (call := _call_of(value, names)) is not None:
            yield place, *call
        else:
            before = raw[max(end, place - _BEFORE) : place]
            named = [(before.rfind(name), name) for name in names if _is_word_of(name, before)]
            if named:
                at, name = max(named)
                yield place - len(before) + at, name, value
            elif len(names) == 1 and not raw[:place].strip():
                yield place, names[0], value  # arguments alone: some engines report only those
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


def _call_of(value: dict[str, Any], names: list[str]) -> tuple[str, dict[str, Any]] | None:
    """Function and arguments of an object that has both."""
    for key in ("function", "tool_call"):
        inner = value.get(key)
        if isinstance(inner, dict):
            return _call_of(inner, names)
    name = next((value[key] for key in _NAMES if value.get(key) in names), None)
    arguments: Any = next((value[key] for key in _ARGUMENTS if key in value), {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments, strict=False)
        except (ValueError, RecursionError):
            return None
    return (name, arguments) if name is not None and isinstance(arguments, dict) else None


def _is_word_of(name: str, text: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None


def _value(text: str) -> Any:
    text = text.strip("\n")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _is_valid(arguments: dict[str, Any], schema: Any) -> bool:
    if not schema:
        return True
    import jsonschema_rs

    try:
        return bool(jsonschema_rs.is_valid(schema, arguments, retriever=refuse_fetch))
    except (jsonschema_rs.ValidationError, ValueError):
        return True  # the schema is invalid, not the call
