"""Tools for models whose chat template has none: described in the prompt, and parsed out of the reply.

The format is the one that most models were trained on (Hermes, Qwen): functions as JSON Schema between `<tools>`, a
call as JSON between `<tool_call>`, its result between `<tool_response>`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from miner.core.llms.contract.stream import Batches
from miner.core.llms.contract.tools import new_tool_call
from miner.core.wire import LLMChunk, Message, TextPart, ToolCall

_OPEN: Final = "<tool_call>"
_CLOSE: Final = "</tool_call>"


def tools_as_text(messages: list[Message], tools: list[dict[str, Any]]) -> list[Message]:
    """The conversation with the tools at the end of its first system message."""
    functions = "\n".join(msgspec.json.encode(tool["function"]).decode() for tool in tools)
    description = (
        "You may call functions to help with the request. They are described as JSON Schema:\n"
        f"<tools>\n{functions}\n</tools>\n"
        f"To call one, reply with its name and arguments as JSON, and with nothing after it:\n"
        f'{_OPEN}\n{{"name": "the function\'s name", "arguments": {{"an argument": "its value"}}}}\n{_CLOSE}'
    )
    if messages and messages[0].role == "system":
        content = messages[0].content
        if isinstance(content, list):
            return [replace(messages[0], content=[*content, TextPart(description)]), *messages[1:]]
        return [replace(messages[0], content=f"{content}\n\n{description}" if content else description), *messages[1:]]
    return [Message(role="system", content=description), *messages]


def calls_as_text(messages: list[Message]) -> list[Message]:
    """The conversation with its calls and their results as text of the assistant and the user."""
    out: list[Message] = []
    after_result = False
    for message in messages:
        if message.role == "tool":
            result = f"<tool_response>\n{message.text()}\n</tool_response>"
            if after_result:
                out[-1] = replace(out[-1], content=f"{out[-1].content}\n{result}")
            else:
                out.append(Message(role="user", content=result))
            after_result = True
            continue
        after_result = False
        if message.tool_calls:
            written = [message.text(), *map(_written, message.tool_calls)]
            message = replace(message, content="\n".join(text for text in written if text), tool_calls=None)
        out.append(message)
    return out


def _written(call: ToolCall) -> str:
    function = call["function"]
    try:
        arguments = msgspec.json.decode(function.get("arguments") or "{}")
    except msgspec.DecodeError:
        arguments = function["arguments"]
    return f"{_OPEN}\n{msgspec.json.encode({'name': function['name'], 'arguments': arguments}).decode()}\n{_CLOSE}"


async def calls_in_text(batches: AsyncIterator[list[LLMChunk]], names: Collection[str]) -> Batches:
    """The same reply with the calls of these functions in its text as `tool_calls`; other text stays text."""
    parser = _CallParser(names)
    async for batch in batches:
        kept = []
        for chunk in batch:
            if chunk.content is not None:
                chunk.content, calls = parser.feed(chunk.content)
                if calls:
                    chunk.tool_calls = [*(chunk.tool_calls or ()), *calls]
            if chunk.finish_reason is not None:
                rest, calls = parser.end()
                chunk.content = (chunk.content or "") + (rest or "") or None
                if calls:
                    chunk.tool_calls = [*(chunk.tool_calls or ()), *calls]
                if parser.count and chunk.finish_reason in ("stop", "length"):
                    chunk.finish_reason, chunk.stop_sequence = "tool_calls", None
            if chunk != LLMChunk():
                kept.append(chunk)
        if kept:
            yield kept


class _CallParser:
    """An incremental parser that holds back what may be a call."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self.count = 0
        self._held = ""

    def feed(self, text: str) -> tuple[str | None, list[ToolCall]]:
        """Return the text that is no call, and the calls that are complete."""
        self._held += text
        shown, calls = [], []
        while True:
            start = self._held.find(_OPEN)
            if start < 0:
                keep = _overlap(self._held)
                shown.append(self._held[: len(self._held) - keep])
                self._held = self._held[len(self._held) - keep :]
                break
            end = self._held.find(_CLOSE, start)
            if end < 0:
                shown.append(self._held[:start])
                self._held = self._held[start:]
                break
            call = self._call(self._held[start + len(_OPEN) : end])
            shown.append(self._held[:start] if call else self._held[: end + len(_CLOSE)])
            calls += [call] if call else []
            self._held = self._held[end + len(_CLOSE) :]
        text = "".join(shown)
        return (None if calls and not text.strip() else text or None), calls

    def end(self) -> tuple[str | None, list[ToolCall]]:
        """Return the rest: a call without its closing tag, or text."""
        held, self._held = self._held, ""
        if held.startswith(_OPEN) and (call := self._call(held[len(_OPEN) :])):
            return None, [call]
        if self.count and not held.strip():
            return None, []
        return held or None, []

    def _call(self, text: str) -> ToolCall | None:
        try:
            value = msgspec.json.decode(text)
            name, arguments = value["name"], value.get("arguments", {})
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
            return None
        if name not in self._names or not isinstance(arguments, dict):
            return None
        self.count += 1
        return new_tool_call(name, msgspec.json.encode(arguments).decode(), self.count - 1)


def _overlap(text: str) -> int:
    """The number of last characters that may begin a call."""
    return next((size for size in range(min(len(_OPEN) - 1, len(text)), 0, -1) if _OPEN.startswith(text[-size:])), 0)
