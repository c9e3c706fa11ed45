"""OpenAI's `allowed_tools`: a choice among some of the tools."""

from __future__ import annotations

from typing import Any

from miner.errors import InvalidRequestError

__all__ = ["allow_tools"]


def allow_tools(arguments: dict[str, Any], names: dict[str, str]) -> None:
    """Leave in the arguments the tools that the choice allows, and how it wants one called.

    Args:
        names: gets the client's place of each tool that stays.

    Raises:
        InvalidRequestError: names the part of the choice at fault.
    """
    choice = arguments["tool_choice"]
    if not isinstance(choice, dict) or choice.get("type") != "allowed_tools":
        return
    inner = choice.get("allowed_tools")
    where = "tool_choice.allowed_tools" if "allowed_tools" in choice else "tool_choice"
    given = inner if "allowed_tools" in choice else choice
    if not isinstance(given, dict) or not isinstance(given.get("tools"), list) or not given["tools"]:
        raise InvalidRequestError(f"{where}.tools must be a list of at least one tool.", param=f"{where}.tools")
    mode = given.get("mode", "auto")
    if mode not in ("auto", "required"):
        raise InvalidRequestError(f"{where}.mode must be auto or required.", param=f"{where}.mode")
    known = [_name(tool) for tool in arguments["tools"]]
    allowed = [_name(tool) for tool in given["tools"]]
    for place, name in enumerate(allowed):
        if name is None or name not in known:
            path = f"{where}.tools[{place}]"
            there = ", ".join(one for one in known if one is not None)
            raise InvalidRequestError(f"{path} must name one of the tools ({there}).", param=path)
    places = [place for place, name in enumerate(known) if name in allowed]
    for now, place in enumerate(places):
        if now != place:
            function = names.get("tools[*].function", "tools[*].function").replace("*", str(place))
            names[f"tools[{now}].function"] = function
            names[f"tools[{now}]"] = f"tools[{place}]"
    arguments["tools"] = [arguments["tools"][place] for place in places]
    arguments["tool_choice"] = mode


def _name(tool: Any) -> str | None:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None
