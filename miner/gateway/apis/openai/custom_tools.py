"""Custom tools of chat completions, whose input is a text: functions with one string, and their calls back."""

from __future__ import annotations

from typing import Any

from miner.core.wire import ToolCall
from miner.gateway.apis.openai.responses.tools import InputReader, custom_arguments, custom_function, custom_input
from miner.gateway.dialect import Call


def convert_history(messages: list[dict[str, Any]]) -> None:
    """Make function calls of the calls of custom tools."""
    for message in messages:
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict) and call.get("type") == "custom" and isinstance(call.get("custom"), dict):
                custom = call.pop("custom")
                call["type"] = "function"
                call["function"] = {"name": custom.get("name"), "arguments": custom_arguments(custom.get("input"))}


def convert_tools(tools: list[Any] | None, call: Call) -> tuple[list[Any] | None, set[str]]:
    """The tools as functions, and the names of the custom ones. Tools of OpenAI's own servers are left out."""
    converted: list[Any] = []
    custom: set[str] = set()
    for place, tool in enumerate(tools or ()):
        kind, where = tool.get("type") if isinstance(tool, dict) else None, f"tools[{place}]"
        inner = f"{where}.function"
        if kind == "custom" and isinstance(tool.get("custom"), dict):
            inner, given = f"{where}.custom", tool["custom"]
            text_format = given.get("format")
            if isinstance(text_format, dict) and isinstance(text_format.get("grammar"), dict):
                given = {**given, "format": {**text_format, **text_format["grammar"]}}
            tool = {"type": "function", "function": custom_function(given, inner, call)}
            if isinstance(given.get("name"), str):
                custom.add(given["name"])
        elif isinstance(kind, str) and kind not in ("function", "custom"):
            call.skip(
                f"{where}.type", f"Unsupported value: '{where}.type' does not support {kind!r}.",
                hint="Only function and custom are supported: tools that the client executes.",
            )  # fmt: skip
            continue
        index = len(converted)
        if (index, inner) != (place, f"{where}.function"):
            call.names.add({f"tools[{index}]": where, f"tools[{index}].function": inner})
        converted.append(tool)
    return converted or None, custom


def convert_choice(choice: Any) -> Any:
    """The choice of a custom tool as that of its function."""
    if isinstance(choice, dict) and choice.get("type") == "custom" and isinstance(choice.get("custom"), dict):
        return {"type": "function", "function": choice["custom"]}
    return choice


def with_custom_calls(tool_calls: list[ToolCall], custom: set[str]) -> list[dict[str, Any]]:
    """The calls of a message, those of custom tools in their form."""
    return [
        {"id": call.get("id"), "type": "custom", "custom": {
            "name": call["function"]["name"], "input": custom_input(call["function"]["arguments"])}}
        if call["function"]["name"] in custom else call
        for call in tool_calls
    ]  # fmt: skip


class CustomCalls:
    """Rewrites the deltas of one choice's calls of custom tools.

    Args:
        custom: the names of these tools.
    """

    def __init__(self, custom: set[str]) -> None:
        self._custom = custom
        self._readers: dict[int, InputReader] = {}
        self._arguments: dict[int, str] = {}

    def deltas(self, tool_calls: list[ToolCall]) -> list[dict[str, Any]]:
        """The deltas for the client; those that add nothing are left out."""
        out: list[dict[str, Any]] = []
        for delta in tool_calls:
            index, function = delta["index"], delta.get("function") or {}
            name = function.get("name")
            if name in self._custom:
                self._readers[index] = InputReader()
                self._arguments[index] = ""
            reader = self._readers.get(index)
            if reader is None:
                out.append(delta)
                continue
            piece = function.get("arguments") or ""
            self._arguments[index] += piece
            added = reader.feed(piece)
            if name is not None:
                custom = {"name": name, "input": added}
                out.append({"index": index, "id": delta.get("id"), "type": "custom", "custom": custom})
            elif added:
                out.append({"index": index, "custom": {"input": added}})
        return out

    def rest(self) -> list[dict[str, Any]]:
        """What is left of the inputs when the calls are complete: of a model that wrote other arguments than asked."""
        out = []
        for index, reader in self._readers.items():
            text = custom_input(self._arguments[index])
            if text != reader.text and text.startswith(reader.text):
                out.append({"index": index, "custom": {"input": text[len(reader.text) :]}})
        self._readers.clear()
        return out
