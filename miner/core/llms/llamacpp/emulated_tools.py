"""Tools for models whose chat template has none: described in the prompt, and parsed out of the reply.

The format is the one that most models were trained on (Hermes, Qwen): functions as JSON Schema between `<tools>`, a
call as JSON between `<tool_call>`, its result between `<tool_response>`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection
from contextlib import suppress
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from miner.core.llms.contract.stream import Batches
from miner.core.llms.contract.tools import new_tool_call
from miner.core.llms.llamacpp.call_reader import CallReader
from miner.core.wire import LLMChunk, Message, TextPart, ToolCall

_OPEN: Final = "<tool_call>"
_CLOSE: Final = "</tool_call>"
_LEAST_TAG: Final = len("<tool")
"""So much of the opening tag at the end of a truncated reply is no text."""


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
            written = [message.text().removesuffix("\n"), *map(_written, message.tool_calls)]
            message = replace(message, content="\n".join(text for text in written if text), tool_calls=None)
        out.append(message)
    return out


def _written(call: ToolCall) -> str:
    """A call as the model wrote it, as far as that is known: what is the same as it was is not read again.

    Clients that parse the arguments return them without spaces; the description's form, which models follow, has some.
    """
    function = call["function"]
    name, arguments = json.dumps(function["name"], ensure_ascii=False), function.get("arguments") or "{}"
    with suppress(ValueError, RecursionError):
        value = json.loads(arguments)
        if arguments == msgspec.json.encode(value).decode():
            arguments = json.dumps(value, ensure_ascii=False)
    return f'{_OPEN}\n{{"name": {name}, "arguments": {arguments}}}\n{_CLOSE}'


async def calls_in_text(batches: AsyncIterator[list[LLMChunk]], names: Collection[str]) -> Batches:
    """The same reply with the calls of these functions in its text as `tool_calls`, their arguments as they are
    generated; other text stays text. A call that max_tokens truncated keeps the finish reason "length".
    """
    parser = _TextParser(names)
    async for batch in batches:
        kept = []
        for chunk in batch:
            if chunk.content is not None:
                chunk.content = _add(chunk, parser.feed(chunk.content)) or None
            if chunk.finish_reason is not None:
                truncated = chunk.finish_reason == "length"
                chunk.content = (chunk.content or "") + _add(chunk, parser.end(truncated=truncated)) or None
                if parser.count and not parser.truncated and chunk.finish_reason in ("stop", "length"):
                    chunk.finish_reason, chunk.stop_sequence = "tool_calls", None
            if chunk != LLMChunk():
                kept.append(chunk)
        if kept:
            yield kept


def _add(chunk: LLMChunk, parsed: tuple[str, list[ToolCall]]) -> str:
    """Add the deltas to a chunk; return the text."""
    text, deltas = parsed
    if deltas:
        chunk.tool_calls = [*(chunk.tool_calls or ()), *deltas]
    return text


class _TextParser:
    """An incremental parser that holds back only what may be the beginning of a call.

    Attributes:
        count: calls so far.
        truncated: max_tokens ended the reply within a call.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._held = ""
        self._call: CallReader | None = None
        """What follows the last opening tag."""
        self.count = 0
        self.truncated = False

    def feed(self, text: str) -> tuple[str, list[ToolCall]]:
        """Return the text that is no call, and the deltas of calls."""
        self._held += text
        shown: list[str] = []
        deltas: list[ToolCall] = []
        goes_on = True
        while goes_on:
            if self._call is None:
                goes_on = self._find_call(shown)
            elif self._call.complete:
                goes_on = self._find_end()
            elif self._call.begun or self._call.possible:
                goes_on = self._read(self._call, deltas)
            else:
                goes_on = self._read_whole(self._call, shown, deltas)
        return "".join(shown), deltas

    # Each step takes what it can of the held text, and returns whether another step may take more.

    def _find_call(self, shown: list[str]) -> bool:
        start = self._held.find(_OPEN)
        keep = _overlap(self._held) if start < 0 else 0
        end = len(self._held) - keep if start < 0 else start
        if self.count and not self._held[:end].strip():
            end = 0 if start < 0 else end  # white space between calls
        else:
            shown.append(self._held[:end])
        self._held = self._held[end:]
        if start < 0:
            return False
        self._held = self._held[len(_OPEN) :]
        self._call = CallReader(self._names, self.count, objects_only=True)
        return True

    def _read(self, call: CallReader, deltas: list[ToolCall]) -> bool:
        begun, held = call.begun, self._held
        found, self._held = call.feed(held)
        deltas += found
        self.count += call.begun and not begun
        return bool(held)

    def _read_whole(self, call: CallReader, shown: list[str], deltas: list[ToolCall]) -> bool:
        """A call in another form, such as with the arguments first, is read when it is complete."""
        _, self._held = call.feed(self._held)
        text, tag, after = call.raw.partition(_CLOSE)
        if not tag:
            return False
        whole = self._whole_call(text)
        if whole is None:
            shown.append(_OPEN + text + tag)
        else:
            deltas.append(whole)
        self._call, self._held = None, after
        return True

    def _find_end(self) -> bool:
        """The closing tag of a complete call: models forget it, or put more into the object."""
        end, rest = self._held.find(_CLOSE), self._held.lstrip(" \t\r\n}")
        if end >= 0:
            self._held = self._held[end + len(_CLOSE) :]
        elif not rest or rest[0] == "," or _CLOSE.startswith(rest) or _OPEN.startswith(rest):
            return False
        else:
            self._held = rest
        self._call = None
        return True

    def end(self, *, truncated: bool) -> tuple[str, list[ToolCall]]:
        """Return the rest: text, or a call without its end."""
        held, self._held = self._held, ""
        call, self._call = self._call, None
        if call is None:
            tag = held.strip()
            is_tag = truncated and len(tag) > _LEAST_TAG and _OPEN.startswith(tag)
            return "" if is_tag or (self.count and not tag) else held, []
        if call.begun:
            self.truncated = truncated and not call.complete
            return "", []
        whole = self._whole_call(call.raw)
        if whole is None and truncated and call.possible:
            self.truncated = True
            whole = call.truncated()
        elif whole is None:
            return _OPEN + call.raw, []
        return "", [whole] if whole is not None else []

    def _whole_call(self, text: str) -> ToolCall | None:
        try:
            value = msgspec.json.decode(text)
            name, arguments = value["name"], value.get("arguments", {})
        except (msgspec.DecodeError, RecursionError, KeyError, TypeError, AttributeError):
            return None
        if name not in self._names or not isinstance(arguments, dict):
            return None
        self.count += 1
        return new_tool_call(name, msgspec.json.encode(arguments).decode(), self.count - 1)


def _overlap(text: str) -> int:
    """The number of last characters that may begin a call."""
    return next((size for size in range(min(len(_OPEN) - 1, len(text)), 0, -1) if _OPEN.startswith(text[-size:])), 0)
