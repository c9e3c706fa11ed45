"""What the scripted engine says: it calls a tool that it is offered, repeats its result, and writes JSON."""

from __future__ import annotations

import json
from typing import Any

from tests.servers.payloads import delta, finish, usage_chunk

VALUES: dict[str, Any] = {
    "city": "Paris", "population": 2_000_000, "command": "echo from-the-tool", "cmd": "echo from-the-tool",
    "description": "Says something",
}  # fmt: skip
"""Arguments by the name of the parameter."""
PREFERRED = ("get_weather", "exec_command", "shell_command", "shell", "bash", "Bash")
"""Tools of agents that run a command, and ours; another is called if it is the only one, or must be."""


def scripted(body: dict[str, Any]) -> Any:
    """The reply to a chat request in the form of vLLM, streamed or not as the backend asks."""
    tools = {tool["function"]["name"]: tool["function"] for tool in body.get("tools") or ()}
    last = body["messages"][-1]
    wanted = _schema(body.get("response_format"))
    choice = body.get("tool_choice")
    if last["role"] == "tool":
        return _text(f"It says: {_text_of(last['content'])}")
    if wanted is not None:
        return _text(json.dumps(_value(wanted)))
    if isinstance(choice, dict):
        return _call(tools[choice["function"]["name"]])
    offered = [name for name in PREFERRED if name in tools]
    if offered or (tools and (choice == "required" or len(tools) == 1)):
        return _call(tools[offered[0] if offered else next(iter(tools))])
    if "json" in json.dumps(body["messages"]).lower() and response_is_json(body):
        return _text(json.dumps({"city": VALUES["city"], "population": VALUES["population"]}))
    return _text("Hello there. How do you do?")


def response_is_json(body: dict[str, Any]) -> bool:
    """Whether any JSON is asked for."""
    return (body.get("response_format") or {}).get("type") == "json_object"


def _schema(wanted: Any) -> Any:
    if isinstance(wanted, dict) and wanted.get("type") == "json_schema":
        return wanted["json_schema"]["schema"]
    return None


def _text(text: str) -> list[Any]:
    words = text.split(" ")
    return [*(delta(content=f"{word} ") for word in words[:-1]), delta(content=words[-1]), finish("stop"),
            usage_chunk(20, len(words))]  # fmt: skip


def _call(function: dict[str, Any]) -> list[Any]:
    text = json.dumps(_value(function.get("parameters") or {}))
    begun = {"name": function["name"], "arguments": ""}
    pieces = [text[at : at + 5] for at in range(0, len(text), 5)]
    return [
        delta(tool_calls=[{"index": 0, "id": "call_0001", "type": "function", "function": begun}]),
        *(delta(tool_calls=[{"index": 0, "function": {"arguments": piece}}]) for piece in pieces),
        finish("tool_calls"),
        usage_chunk(20, len(pieces)),
    ]


def _value(schema: dict[str, Any]) -> dict[str, Any]:
    """An object of the required parameters that have a value here."""
    properties = schema.get("properties") or {}
    names = [name for name in properties if name in VALUES]
    return {name: _typed(VALUES[name], properties[name]) for name in names}


def _typed(value: Any, schema: dict[str, Any]) -> Any:
    return value.split() if schema.get("type") == "array" and isinstance(value, str) else value


def _text_of(content: Any) -> str:
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)
