"""Tools and the choice among them.

Anthropic defines some tools whose calls the client carries out (bash, the text editor, memory): they become functions
with their documented parameters. Those that Anthropic's own servers carry out (web search, code execution, MCP) are
left out, as the policy for what is unsupported says.
"""

from __future__ import annotations

from typing import Any

import msgspec

from miner.errors import InvalidRequestError
from miner.gateway.apis.anthropic.client_tools import client_tool
from miner.gateway.apis.anthropic.schema import AnthropicCountTokensRequest, AnthropicTool
from miner.gateway.body_structure import bounded
from miner.gateway.dialect import Call

_TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_FIELDS = frozenset(AnthropicTool.__struct_fields__)
_NO_EFFECT = ("allowed_callers", "defer_loading", "input_examples")
"""Fields of a tool that add: all tools are shown to the model from the start, and the client calls all."""
_SERVER_TOOL = "Give the model a function of your own, with name, description and input_schema."


def tool_arguments(request: AnthropicCountTokensRequest, call: Call) -> dict[str, Any]:
    """The service's arguments for tools and the choice among them. `call.names` gets the places of the functions."""
    choice = request.tool_choice
    tools: list[dict[str, Any]] = []
    for place, body in enumerate(request.tools or ()):
        tool = _tool(body, f"tools[{place}]", call)
        if tool is None:
            continue
        if len(tools) != place:
            at = f"tools[{len(tools)}]"
            parts = {"": "", ".function": "", ".function.parameters": ".input_schema"}
            call.names.add({f"{at}{part}": f"tools[{place}]{ours}" for part, ours in parts.items()})
        tools.append(tool)
    if not tools:
        if choice is not None and choice.type in ("any", "tool"):
            raise InvalidRequestError("tool_choice requires tools.", param="tool_choice")
        return {}
    arguments: dict[str, Any] = {"tools": tools}
    if choice is None:
        return arguments
    if choice.type == "tool":
        if not choice.name:
            raise InvalidRequestError("Missing required parameter: 'tool_choice.name'.", param="tool_choice.name")
        names = [tool["function"]["name"] for tool in tools]
        if choice.name not in names:
            raise InvalidRequestError(
                f"tool_choice.name must be the name of a tool ({', '.join(names)}), not {choice.name!r}.",
                param="tool_choice.name",
            )
        arguments["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    else:
        arguments["tool_choice"] = _TOOL_CHOICES[choice.type]
    if choice.disable_parallel_tool_use:
        arguments["parallel_tool_calls"] = False
    return arguments


def _tool(body: dict[str, Any], where: str, call: Call) -> dict[str, Any] | None:
    """One tool as a function; None if it is left out."""
    kind = body.get("type")
    if kind not in (None, "custom"):
        function = client_tool(str(kind))
        if function is None:
            shown = str(kind)[:80]
            call.skip(
                f"{where}.{shown}", f"Unsupported value: '{where}.type' does not support {shown!r}.", hint=_SERVER_TOOL
            )
        return function and {"type": "function", "function": {**function, **_renamed(body)}}
    for name in set(body) - _FIELDS:
        call.foreign.setdefault(f"{where}.{name}", body[name])
    try:
        tool = msgspec.convert({name: value for name, value in body.items() if name in _FIELDS}, AnthropicTool)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"Invalid value for '{where}': {error}.", param=where) from None
    if tool.input_schema is None:
        path = f"{where}.input_schema"
        raise InvalidRequestError(f"Missing required parameter: {path!r}.", param=path)
    for name in _NO_EFFECT:
        if getattr(tool, name):
            call.skip(f"{where}.{name}")
    function = {"name": tool.name, "parameters": bounded(tool.input_schema, f"{where}.input_schema")}
    if tool.description:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _renamed(body: dict[str, Any]) -> dict[str, str]:
    """The name that the client gives one of Anthropic's tools, which it expects in the call."""
    name = body.get("name")
    return {"name": name} if isinstance(name, str) and name else {}
