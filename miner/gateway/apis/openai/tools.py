"""OpenAI's `tools` and `tool_choice` as the service takes them, `allowed_tools` included."""

from __future__ import annotations

from typing import Any

from miner.errors import InvalidRequestError
from miner.gateway.body_limits import bounded
from miner.gateway.field_names import FieldNames

__all__ = ["tool_arguments"]


def tool_arguments(
    tools: list[Any] | None, tool_choice: Any, parallel_tool_calls: bool | None, names: FieldNames
) -> dict[str, Any]:
    """The service's arguments for tools and the choice among them.

    Args:
        tools: in the form of chat completions.
        names: gets the client's field of each tool that `allowed_tools` leaves.

    Raises:
        InvalidRequestError: names the part of the choice at fault.
    """
    if not tools:
        if tool_choice not in (None, "none", "auto"):
            raise InvalidRequestError("tool_choice requires tools.", param="tool_choice")
        return {}
    arguments: dict[str, Any] = {"tools": tools}
    if tool_choice is not None:
        arguments["tool_choice"] = bounded(tool_choice, "tool_choice")
        if isinstance(tool_choice, dict) and tool_choice.get("type") == "allowed_tools":
            arguments.update(_allowed_tools(tools, tool_choice, names))
    if parallel_tool_calls is not None:
        arguments["parallel_tool_calls"] = parallel_tool_calls
    return arguments


def _allowed_tools(tools: list[Any], choice: dict[str, Any], names: FieldNames) -> dict[str, Any]:
    """The tools that the choice allows, and its mode."""
    nested = "allowed_tools" in choice  # as in chat completions; in responses they stand beside `type`
    where = "tool_choice.allowed_tools" if nested else "tool_choice"
    allowed = choice["allowed_tools"] if nested else choice
    if not isinstance(allowed, dict) or not isinstance(allowed.get("tools"), list) or not allowed["tools"]:
        raise InvalidRequestError(f"{where}.tools must be a list of at least one tool.", param=f"{where}.tools")
    mode = allowed.get("mode", "auto")
    if mode not in ("auto", "required"):
        raise InvalidRequestError(f"{where}.mode must be 'auto' or 'required'.", param=f"{where}.mode")
    known = [_name(tool) for tool in tools]
    wanted = [_name(tool) for tool in allowed["tools"]]
    for place, name in enumerate(wanted):
        if name is None or name not in known:
            path = f"{where}.tools[{place}]"
            available = ", ".join(one for one in known if one is not None)
            raise InvalidRequestError(f"{path} must name one of the tools ({available}).", param=path)
    places = [place for place, name in enumerate(known) if name in wanted]
    for index, place in enumerate(places):
        if index != place:
            function = names.of(f"tools[{place}].function")
            names.add({f"tools[{index}].function": function, f"tools[{index}]": f"tools[{place}]"})
    return {"tools": [tools[place] for place in places], "tool_choice": mode}


def _name(tool: Any) -> str | None:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None
