"""The tools of a response as functions, and the calls of these functions as items of the tools that they stand for."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

from miner.errors import InvalidRequestError
from miner.gateway.apis.openai.convert import tool_arguments
from miner.gateway.apis.openai.responses.schema import ResponseRequest
from miner.gateway.body_structure import bounded
from miner.gateway.dialect import Call

_FUNCTION_FIELDS = ("name", "description", "parameters", "strict")
_LONGEST_NAME = 64
"""Characters of a function's name: OpenAI's limit, which engines and models share."""
_INPUT = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
_CHOSEN = ("function", "custom")


@dataclass(frozen=True, slots=True)
class ToolName:
    """The tool that a function stands for."""

    name: str
    kind: str = "function"
    """`function` or `custom`."""
    namespace: str | None = None


@dataclass(slots=True)
class Tools:
    """The tools of one request."""

    functions: list[dict[str, Any]] = field(default_factory=list)
    """As chat completions take them."""
    by_function: dict[str, ToolName] = field(default_factory=dict)
    """The tool of each function."""

    def of(self, function: str) -> ToolName:
        """The tool that the model called by this name."""
        return self.by_function.get(function) or ToolName(function)


def function_name(name: Any, namespace: Any = None) -> Any:
    """The name of the function that stands for a tool of a namespace."""
    if not isinstance(name, str) or not isinstance(namespace, str) or not namespace:
        return name
    joined = re.sub(r"[^A-Za-z0-9_-]", "_", f"{namespace.rstrip('_')}__{name}")
    if len(joined) > _LONGEST_NAME:
        joined = f"{joined[: _LONGEST_NAME - 9]}_{hashlib.sha256(joined.encode()).hexdigest()[:8]}"
    return joined


def custom_arguments(text: Any) -> str:
    """The arguments of the function that stands for a custom tool with this input."""
    return json.dumps({"input": text if isinstance(text, str) else ""}, ensure_ascii=False)


def custom_input(arguments: str) -> str:
    """The input of a custom tool in the arguments of its function, which may be cut. What is no such object is the
    input itself.
    """
    try:
        value = json.loads(arguments, strict=False)
    except (ValueError, RecursionError):
        return InputReader().feed(arguments) or arguments
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        texts = [value["input"]] if "input" in value else list(value.values())
        if len(texts) == 1 and isinstance(texts[0], str):
            return texts[0]
    return arguments


class InputReader:
    """Reads the input of a custom tool out of pieces of its function's arguments, as they come."""

    _BEGINNING = re.compile(r'\s*\{\s*"input"\s*:\s*"')
    _TEXT = re.compile(
        r'(?:[^"\\]|\\(?:["\\/bfnrt]|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}'
        r"|u(?![dD][89abAB])[0-9a-fA-F]{4}))*"
    )

    def __init__(self) -> None:
        self.text = ""
        """The input so far."""
        self._rest = ""
        self._inside = self._ended = False

    def feed(self, piece: str) -> str:
        """What the piece adds to the input."""
        self._rest += piece
        if self._ended:
            return ""
        if not self._inside:
            found = self._BEGINNING.match(self._rest)
            if found is None:
                return ""
            self._inside, self._rest = True, self._rest[found.end() :]
        found = self._TEXT.match(self._rest)
        assert found is not None  # of nothing, at least
        raw, self._rest = found.group(), self._rest[found.end() :]
        self._ended = self._rest.startswith('"')
        added = json.loads(f'"{raw}"', strict=False) if raw else ""
        self.text += added
        return str(added)


def tools_of(request: ResponseRequest, call: Call) -> Tools:
    """The tools that the client can execute. Those that OpenAI's servers would are left out.

    Args:
        call: `names` gets the place of each function, and what is left out is skipped there.

    Raises:
        RequestError: names the tool.
    """
    tools = Tools()
    for place, tool in enumerate(request.tools or ()):
        _add(tools, tool, f"tools[{place}]", call)
    # Tools may come in the middle of a conversation: what a client's search for tools found.
    for place, item in enumerate(request.input if isinstance(request.input, list) else ()):
        if item.get("type") in ("additional_tools", "tool_search_output") and isinstance(item.get("tools"), list):
            for number, tool in enumerate(item["tools"]):
                _add(tools, tool, f"input[{place}].tools[{number}]", call)
    return tools


def _add(tools: Tools, tool: Any, where: str, call: Call, namespace: str | None = None, about: str = "") -> None:
    bounded(tool, where)
    kind = tool.get("type") if isinstance(tool, dict) else None
    if not isinstance(kind, str):
        raise InvalidRequestError(f"{where}.type must be a string.", param=f"{where}.type")
    if kind == "namespace" and namespace is None:
        members = tool.get("tools")
        if not isinstance(tool.get("name"), str) or not isinstance(members, list):
            raise InvalidRequestError(f"{where} must have a name and a list of tools.", param=where)
        about = tool.get("description") if isinstance(tool.get("description"), str) else ""
        for number, member in enumerate(members):
            _add(tools, member, f"{where}.tools[{number}]", call, tool["name"], about if number == 0 else "")
        return
    if kind not in _CHOSEN:
        call.skip(
            f"{where}.type", f"Unsupported value: '{where}.type' does not support {kind!r}.",
            hint="Only function, custom and namespace are supported: tools that the client executes.",
        )  # fmt: skip
        return
    function = {name: tool[name] for name in _FUNCTION_FIELDS if tool.get(name) is not None}
    if kind == "custom":
        function = custom_function(tool, where, call)
    if about:
        function["description"] = "\n\n".join(filter(None, (about, function.get("description"))))
    name = function_name(function.get("name"), namespace)
    if name is not None:
        function["name"] = name
    if isinstance(name, str):
        if name in tools.by_function and where.startswith("input["):
            return  # given once already
        tools.by_function[name] = ToolName(tool["name"], kind, namespace)
    index = len(tools.functions)
    call.names.add({f"tools[{index}]": where, f"tools[{index}].function": where})
    tools.functions.append({"type": "function", "function": function})


def custom_function(tool: dict[str, Any], where: str, call: Call) -> dict[str, Any]:
    """A function with one string. A grammar is shown to the model, and not enforced."""
    function: dict[str, Any] = {"name": tool.get("name"), "parameters": _INPUT}
    texts = [tool["description"]] if isinstance(tool.get("description"), str) else []
    text_format = tool.get("format")
    if isinstance(text_format, dict) and text_format.get("type") == "grammar":
        call.skip(
            f"{where}.format", f"Unsupported value: '{where}.format' does not support 'grammar'.",
            hint="Describe the format in the description.",
        )  # fmt: skip
        syntax, definition = text_format.get("syntax"), text_format.get("definition")
        texts.append(f"The input must match this grammar ({syntax}):\n{definition}")
    if texts:
        function["description"] = "\n\n".join(texts)
    return function


def tool_choice_arguments(request: ResponseRequest, tools: Tools, call: Call) -> dict[str, Any]:
    """The service's arguments for these tools and the choice among them.

    Raises:
        RequestError: names the choice.
    """
    choice = request.tool_choice
    if isinstance(choice, dict):
        bounded(choice, "tool_choice")
        kind = choice.get("type")
        if kind in _CHOSEN:
            if isinstance(choice.get("name"), str):
                choice = {"type": "function", "name": function_name(choice["name"], choice.get("namespace"))}
        elif kind == "allowed_tools":
            choice = _allowed(choice, call)
        elif isinstance(kind, str) and kind not in ("auto", "none", "required"):
            call.skip(
                "tool_choice", f"Unsupported value: 'tool_choice' does not support {kind!r}.",
                hint="Choose auto, none, required, or a function or custom tool.", changes=True,
            )  # fmt: skip
            choice = None
    return tool_arguments(tools.functions, choice, request.parallel_tool_calls, call.names)


def _allowed(choice: dict[str, Any], call: Call) -> Any:
    """The choice with the functions of its tools; tools that are left out here cannot be called anyway."""
    listed = choice.get("tools")
    if not isinstance(listed, list):
        return choice
    allowed = []
    for place, tool in enumerate(listed):
        kind = tool.get("type", "function") if isinstance(tool, dict) else None
        if kind in _CHOSEN or not isinstance(kind, str):
            named = isinstance(tool, dict) and isinstance(tool.get("name"), str)
            name = function_name(tool["name"], tool.get("namespace")) if named else None
            allowed.append({"type": "function", "name": name} if named else tool)
        else:
            where = f"tool_choice.tools[{place}]"
            call.skip(where, f"Unsupported value: '{where}' does not support {kind!r}.")
    return {**choice, "tools": allowed} if allowed else "none"
