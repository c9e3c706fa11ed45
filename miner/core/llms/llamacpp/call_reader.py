"""The incremental reader of a tool call that the model writes as JSON, `{"name": ..., "arguments": {...}}`: what is
generated of its arguments is delivered at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from miner.core.llms.contract.tools import new_tool_call
from miner.core.wire import ToolCall

_IN_STRING: Final = re.compile(r'[^"\\\x00-\x1f]+')
_SPACE: Final = " \t\r\n"


class JSONScanner:
    """Finds the end of a JSON value that arrives in pieces; white space between its tokens is left out.

    A line break inside of a string, which models write and JSON does not allow, becomes its escape.
    """

    __slots__ = ("_begun", "_depth", "_escaped", "_in_string", "ended")

    def __init__(self) -> None:
        self._begun = self._in_string = self._escaped = False
        self._depth = 0
        self.ended = False

    def feed(self, text: str) -> tuple[str, str]:
        """Return the value's text in this piece, and the text after its end."""
        out: list[str] = []
        place = 0
        while place < len(text) and not self.ended:
            if self._in_string:
                place = self._feed_string(text, place, out)
                continue
            char = text[place]
            if char in ",}]" and not self._depth and self._begun:
                self.ended = True  # of a number or a name; the character is not part of it
                break
            place += 1
            if char in _SPACE:
                self.ended = self._begun and not self._depth
                continue
            self._begun = True
            out.append(char)
            if char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                self.ended = not self._depth
        return "".join(out), text[place:]

    def _feed_string(self, text: str, place: int, out: list[str]) -> int:
        run = None if self._escaped else _IN_STRING.match(text, place)
        if run is not None:
            out.append(run[0])
            return run.end()
        char = text[place]
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._in_string = False
            self.ended = not self._depth
        elif char < " ":
            char = json.dumps(char)[1:-1]
        out.append(char)
        return place + 1


class CallReader:
    """Reads one call of one of these functions. Its deltas begin as soon as the text cannot be anything else.

    Args:
        index: of the call in the reply.
        objects_only: arguments that are no object make the text no call.

    Attributes:
        begun: the call is certain, and its deltas have begun.
        possible: the text so far may be, or become, a call with the name first.
        raw: the text so far, until the call is certain.
    """

    def __init__(self, names: Iterable[str], index: int = 0, *, objects_only: bool = False) -> None:
        self._index = index
        self._opening = "{" if objects_only else ""
        self._heads = {
            f'{{"name":{name_text},"arguments":{self._opening}': name
            for name in names
            for name_text in (json.dumps(name), msgspec.json.encode(name).decode())
        }
        self._head = ""
        self._scanner = JSONScanner()
        self.begun = False
        self.possible = True
        self.raw = ""

    @property
    def complete(self) -> bool:
        """Whether the arguments are complete."""
        return self.begun and self._scanner.ended

    def feed(self, text: str) -> tuple[list[ToolCall], str]:
        """Return the deltas in this piece, and the text after the arguments."""
        if self.begun:
            return self._deltas(text)
        for place, char in enumerate(text):
            if not self.possible:
                self.raw += text[place:]
                break
            self.raw += char
            self._head += self._scanner.feed(char)[0]
            if (name := self._heads.get(self._head)) is not None:
                self.begun = True
                self._scanner = JSONScanner()
                deltas, rest = self._deltas(self._opening + text[place + 1 :])
                return [new_tool_call(name, "", self._index), *deltas], rest
            self.possible = any(head.startswith(self._head) for head in self._heads)
        return [], ""

    def _deltas(self, text: str) -> tuple[list[ToolCall], str]:
        piece, rest = self._scanner.feed(text)
        return ([{"index": self._index, "function": {"arguments": piece}}] if piece else []), rest

    def truncated(self) -> ToolCall | None:
        """Return the call without arguments that the text begins, if it can be that of one function only."""
        names = {name for head, name in self._heads.items() if head.startswith(self._head)}
        return new_tool_call(names.pop(), "", self._index) if self.possible and len(names) == 1 else None

    def names_function(self, keys: Iterable[str]) -> bool:
        """Return whether the text names a function, or begins to where none of these other keys is possible."""
        key, end, _ = self._head[2:].partition('"')
        return bool(key) and not any(other == key if end else other.startswith(key) for other in keys)
