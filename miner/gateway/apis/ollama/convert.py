"""Conversations in Ollama's form: images beside the text, calls whose arguments are objects, tools' turns by name."""

from __future__ import annotations

from typing import Any

import msgspec

from miner.core.wire import ToolCall
from miner.errors import InvalidRequestError
from miner.gateway.apis.ollama.common import image_url
from miner.gateway.body_limits import bounded, check_length

__all__ = ["OllamaMessage", "call_object", "content_of", "turns"]


class OllamaFunction(msgspec.Struct, kw_only=True):
    """What is called. Fields besides these come from our own answers and say nothing new."""

    name: str
    arguments: dict[str, Any] | None = None


class OllamaCall(msgspec.Struct, kw_only=True):
    """A call of an assistant's turn."""

    function: OllamaFunction
    id: str | None = None


class OllamaMessage(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One turn."""

    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[OllamaCall] | None = None
    tool_name: str | None = None
    name: str | None = None
    """The older name of tool_name."""
    tool_call_id: str | None = None


class _Calls:
    """The calls of a conversation that wait for their results: Ollama's clients often send no ids."""

    def __init__(self) -> None:
        self._open: list[tuple[str, str]] = []
        self._made = 0

    def add(self, call: OllamaCall) -> str:
        """The id of a call, made where it has none."""
        self._made += 1
        name = call.id or f"call_{self._made}"
        self._open.append((name, call.function.name))
        return name

    def answered(self, turn: OllamaMessage) -> str:
        """The id of the call that a tool's turn answers: the one that it names, else the first that fits."""
        for place, (name, function) in enumerate(self._open):
            if name == turn.tool_call_id if turn.tool_call_id else turn.tool_name in (None, "", function):
                del self._open[place]
                return name
        self._made += 1
        return turn.tool_call_id or f"call_{self._made}"


def turns(messages: list[OllamaMessage]) -> list[dict[str, Any]]:
    """The turns as the service takes them."""
    check_length(messages, "messages")
    calls = _Calls()
    return [_turn(message, f"messages[{place}]", calls) for place, message in enumerate(messages)]


def _turn(message: OllamaMessage, where: str, calls: _Calls) -> dict[str, Any]:
    turn: dict[str, Any] = {
        "role": message.role,
        "content": content_of(message.content or "", message.images, f"{where}.images"),
    }
    if message.thinking:
        turn["reasoning"] = message.thinking
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "id": calls.add(call),
                "type": "function",
                "function": {"name": call.function.name, "arguments": _arguments(call, where)},
            }
            for call in message.tool_calls
        ]
        turn["content"] = turn["content"] or None
    if message.role == "tool":
        message.tool_name = message.tool_name or message.name
        turn["tool_call_id"] = calls.answered(message)
        if message.tool_name:
            turn["name"] = message.tool_name
    elif message.tool_name or message.tool_call_id or message.name:
        raise InvalidRequestError(f"{where}: name, tool_name and tool_call_id belong to a tool's turn.", param=where)
    return turn


def _arguments(call: OllamaCall, where: str) -> str:
    return msgspec.json.encode(bounded(call.function.arguments or {}, f"{where}.tool_calls")).decode()


def content_of(text: str, images: list[str] | None, where: str) -> str | list[dict[str, Any]]:
    """A text, or a text with its images."""
    if not images:
        return text
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    for place, image in enumerate(images):
        parts.append({"type": "image_url", "image_url": {"url": image_url(image, f"{where}[{place}]")}})
    return parts


def call_object(call: ToolCall, index: int) -> dict[str, Any]:
    """A finished call as Ollama writes it.

    Raises:
        msgspec.DecodeError, RecursionError: the arguments are no JSON, or nested without end.
    """
    function = call["function"]
    arguments = msgspec.json.decode(function.get("arguments") or "{}")
    return {"id": call["id"], "function": {"index": index, "name": function["name"], "arguments": arguments}}
