"""Tools and tool calls: validated in requests, checked in responses."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from miner.core.llms.schema.normalize import first_error, relaxed, without_nulls
from miner.core.wire import ToolCall, ToolChoice
from miner.errors import InvalidRequestError


def checked_tools(tools: Any) -> list[dict[str, Any]] | None:
    """Return tools as in OpenAI's API, `{"type": "function", "function": {"name", "description", "parameters"}}`; None
    if there are none.

    Raises:
        InvalidRequestError: names the tool.
    """
    if tools is None:
        return None
    if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Sequence):
        raise InvalidRequestError("tools must be a list of tools, or None.", param="tools")
    checked: list[dict[str, Any]] = []
    seen: set[str] = set()
    for place, tool in enumerate(tools):
        where = f"tools[{place}]"
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if (
            not isinstance(tool, Mapping)
            or tool.get("type", "function") not in ("function", None)
            or not isinstance(function, Mapping)
        ):
            raise InvalidRequestError(f'{where} must be {{"type": "function", "function": {{...}}}}.', param=where)
        name = function.get("name")
        if not isinstance(name, str) or not name:
            raise InvalidRequestError(f"{where}.function.name is missing.", param=where)
        if name in seen:
            raise InvalidRequestError(f"{where}.function.name {name!r} is a duplicate.", param=where)
        seen.add(name)
        parameters = function.get("parameters")
        if parameters is not None and not isinstance(parameters, Mapping):
            raise InvalidRequestError(f"{where}.function.parameters must be a JSON Schema.", param=where)
        # Engines' own validation refuses null.
        kept = {n: v for n, v in function.items() if v is not None}
        if parameters:
            kept["parameters"] = _schema(parameters, where, strict=function.get("strict") is True)
        checked.append({"type": "function", "function": kept})
    return checked or None


def _schema(parameters: Mapping[str, Any], where: str, *, strict: bool) -> dict[str, Any]:
    """The parameters of a tool as a JSON Schema; a strict tool's must be valid already."""
    if not strict:
        return relaxed(dict(parameters))
    try:
        schema: dict[str, Any] = without_nulls(dict(parameters))
        problem = first_error(schema)
    except (TypeError, ValueError, RecursionError) as error:
        problem = [], f"it cannot be read: {error}"
    if problem is not None:
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in problem[0])
        path = f"{where}.function.parameters{place}"
        raise InvalidRequestError(f"{path}: the JSON Schema is not valid: {problem[1]}.", param=path)
    return schema


def checked_tool_choice(choice: Any, tools: list[dict[str, Any]] | None) -> ToolChoice | None:
    """Return the choice as in OpenAI's API: auto, none, required, or one tool, which may also be a bare name."""
    if choice is None:
        return None
    if isinstance(choice, Mapping) and choice.get("type") in ("auto", "none", "required"):
        choice = choice["type"]
    if tools is None:
        if choice in ("none", "auto"):
            return None
        raise InvalidRequestError("tool_choice requires tools.", param="tool_choice")
    if choice in ("auto", "none", "required"):
        return choice  # type: ignore[no-any-return]
    name = choice
    if isinstance(choice, Mapping):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else choice.get("name")
    if not isinstance(name, str) or name not in tool_names(tools):
        raise InvalidRequestError(
            f"tool_choice must be auto, none, required or the name of a tool ({', '.join(tool_names(tools))}), "
            f"not {_shown(choice)}.",
            param="tool_choice",
        )
    return {"type": "function", "function": {"name": name}}


def _shown(choice: Any) -> str:
    """The choice as JSON."""
    try:
        return msgspec.json.encode(choice).decode()[:200]
    except (TypeError, ValueError, RecursionError):
        return repr(choice)[:200]


def tool_names(tools: list[dict[str, Any]] | None) -> list[str]:
    """Return the names, in order."""
    return [tool["function"]["name"] for tool in tools or ()]


def chosen_tool(choice: ToolChoice | None) -> str | None:
    """Return the name of the tool that must be called; None if the choice names none."""
    return choice["function"]["name"] if isinstance(choice, dict) else None


INVALID_JSON: Final = "INVALID_JSON"
"""The key under which arguments that are no JSON object go where an API or a chat template takes only objects: the one
that Anthropic's documentation recommends, and that pydantic-ai uses."""


def arguments_parse(call: ToolCall) -> bool:
    """Return whether the arguments of a complete call are a JSON object."""
    return _object(call["function"]["arguments"]) is not None


def arguments_object(call: ToolCall) -> dict[str, Any]:
    """Return the arguments of a call as an object; those that are none, as `{"INVALID_JSON": text}`."""
    text = call["function"].get("arguments")
    value = _object(text)
    return {INVALID_JSON: text} if value is None else value


def _object(text: str | None) -> dict[str, Any] | None:
    try:
        value = msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def with_object_arguments(calls: list[ToolCall]) -> list[ToolCall]:
    """Return the calls with objects as arguments, in JSON text; the list itself if they are."""
    if all(map(arguments_parse, calls)):
        return calls
    texts = [msgspec.json.encode(arguments_object(call)).decode() for call in calls]
    return [
        {**call, "function": {**call["function"], "arguments": text}} for call, text in zip(calls, texts, strict=True)
    ]


def new_tool_call(name: str, arguments: str, index: int = 0) -> ToolCall:
    """Return a tool call with an id of its own; `arguments` is JSON text."""
    function = {"name": name, "arguments": arguments}
    return {"index": index, "id": f"call_{secrets.token_hex(8)}", "type": "function", "function": function}
