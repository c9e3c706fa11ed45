"""Splits Markdown that is still arriving into pieces that can be printed for good, and the open one behind them.

A block is finished when the next one begins, an item of a list when the next item does, a line of a code block when it
ends. Only complete lines decide that: `#` may become a heading or the first letter of `#tag`. So each piece is rendered
once, and only the open one again and again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from markdown_it import MarkdownIt
from markdown_it.token import Token

_LONG_PARAGRAPH = 1500
"""Characters after which the lines of a paragraph are finished before it is."""
_TRAILING_MARKS = re.compile(r"[*_`~]+$")
_LISTS = ("bullet_list_open", "ordered_list_open")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a response that is rendered together."""

    kind: Literal["markdown", "code_begin", "code", "code_end"]
    text: str = ""
    """Markdown; the code's lines; for `code_begin` its language, and what else stands there."""
    gap: bool = False
    """Whether a blank line comes before it."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """A block, or an item of a list."""

    first: int
    """Its first line."""
    kind: str
    joined: bool
    """Whether it continues the list of the unit before it."""
    token: Token


@dataclass(frozen=True, slots=True)
class _Fence:
    mark: str
    indent: int

    def closes(self, line: str) -> bool:
        text = line.strip()
        indent = len(line) - len(line.lstrip(" "))
        return indent < 4 and len(text) >= len(self.mark) and set(text) == {self.mark[0]}


class Blocks:
    """The pieces of one response.

    Args:
        language: all of it is code in this language, such as the JSON that was required.
    """

    def __init__(self, language: str | None = None) -> None:
        # No HTML: `<vector>` is text. No references: a definition would vanish.
        parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
        self._parser = parser.disable(["reference", "inline", "text_join"], ignoreInvalid=True)
        self._tail = ""
        self._fence: _Fence | None = None
        self._wholly_code = language is not None
        self._begun: list[Piece] = []
        self._any = False
        self._in_list = False
        """Whether the tail begins in the list of the last piece."""
        self._joined = False
        """Whether the tail continues the paragraph of the last piece."""
        self._blank = False
        """Whether a blank line is before the tail."""
        if language is not None:
            self._begun.append(Piece("code_begin", language))

    def add(self, text: str) -> None:
        """Add text that arrived."""
        self._tail += text

    def finished(self, *, ended: bool = False) -> list[Piece]:
        """Return the pieces that were finished since the last call.

        Args:
            ended: no more text comes: the open piece is finished too.
        """
        pieces, self._begun = self._begun, []
        more = True
        while more:
            if self._wholly_code or self._fence is not None:
                more = self._take_code(pieces, ended)
            else:
                more = self._take_blocks(pieces, ended)
        if ended and (self._fence is not None or self._wholly_code):
            pieces.append(Piece("code_end"))
            self._fence, self._wholly_code = None, False
        return pieces

    def open(self) -> list[Piece]:
        """Return the open piece, as it would look if it ended here."""
        if self._fence is not None or self._wholly_code:
            return [Piece("code", self._tail)] if self._tail.strip() else []
        text = self._tail.strip("\n")
        before, _, line = text.rpartition("\n")
        if line.lstrip().startswith(("```", "~~~")):
            text = before  # not yet a line that begins a code block
        if not text.strip():
            return []
        return [Piece("markdown", _completed(text), gap=self._gap(joined=self._in_list, blank=self._blank))]

    def _take_code(self, pieces: list[Piece], ended: bool) -> bool:
        lines = self._tail.split("\n")
        rest = "" if ended else lines.pop()
        if ended and lines and not lines[-1]:
            lines.pop()
        fence = self._fence
        closing = next((at for at, line in enumerate(lines) if fence is not None and fence.closes(line)), None)
        taken = lines if closing is None else lines[:closing]
        indent = fence.indent if fence is not None else 0
        if taken:
            pieces.append(Piece("code", "\n".join(_outdented(line, indent) for line in taken)))
        if closing is None:
            self._tail = rest
            return False
        pieces.append(Piece("code_end"))
        self._fence = None
        self._tail = "\n".join([*lines[closing + 1 :], rest])
        return True

    def _take_blocks(self, pieces: list[Piece], ended: bool) -> bool:
        while True:  # blank lines before the tail
            line, end, rest = self._tail.partition("\n")
            if not end or line.strip():
                break
            self._tail, self._blank = rest, self._blank or self._any
        complete = self._tail if ended else self._tail[: self._tail.rfind("\n") + 1]
        if not complete.strip():
            if ended:
                self._tail = ""
            return False
        units = self._units(complete)
        lines = complete.split("\n")
        fence = next((at for at, unit in enumerate(units) if unit.kind == "fence"), None)
        count = len(units) if ended else len(units) - 1
        stop = count if fence is None else fence
        for at in range(stop):
            unit = units[at]
            after = units[at + 1].first if at + 1 < len(units) else len(lines)
            self._take(pieces, unit, "\n".join(lines[unit.first : after]))
        if fence is not None:
            return self._begin_fence(pieces, units[fence], lines, self._tail[len(complete) :])
        if stop >= len(units):
            self._tail = ""
            return False
        last = units[stop]
        self._in_list = last.joined
        self._tail = "\n".join(lines[last.first :]) + self._tail[len(complete) :]
        self._cut_paragraph(pieces, last, "\n".join(lines[last.first :]))
        return False

    def _take(self, pieces: list[Piece], unit: _Unit, source: str) -> None:
        """Add a finished unit."""
        pieces.append(Piece("markdown", source.strip("\n"), gap=self._gap(joined=unit.joined, blank=self._blank)))
        self._any, self._joined = True, False
        self._blank = "\n" in source and not source.rpartition("\n")[2].strip()

    def _gap(self, *, joined: bool, blank: bool) -> bool:
        """Whether a blank line comes before a piece: between blocks always, between items of a list if the model wrote
        one.
        """
        return self._any and not self._joined and (blank or not joined)

    def _begin_fence(self, pieces: list[Piece], unit: _Unit, lines: list[str], partial: str) -> bool:
        token = unit.token
        opening = lines[unit.first]
        pieces.append(Piece("code_begin", token.info.strip(), gap=self._any))
        self._any, self._in_list, self._joined = True, False, False
        self._fence = _Fence(token.markup, len(opening) - len(opening.lstrip(" ")))
        self._tail = "\n".join(lines[unit.first + 1 :]) + partial
        return True

    def _cut_paragraph(self, pieces: list[Piece], unit: _Unit, source: str) -> None:
        """Finish the lines of a long paragraph: models write texts of pages without a blank line."""
        if unit.kind != "paragraph_open" or len(source) < _LONG_PARAGRAPH or "|" in source:
            return
        if source.count("`") % 2 or source.count("**") % 2:
            return
        pieces.append(Piece("markdown", source.strip("\n"), gap=self._gap(joined=False, blank=self._blank)))
        self._any, self._joined, self._blank = True, True, False
        self._tail = self._tail[len(source) :]

    def _units(self, text: str) -> list[_Unit]:
        units: list[_Unit] = []
        in_list, first_item = False, False
        for token in self._parser.parse(text):
            if token.map is None or token.nesting < 0:
                continue
            if token.level == 0:
                in_list = token.type in _LISTS
                first_item = True
                if not in_list:
                    units.append(_Unit(token.map[0], token.type, False, token))
            elif in_list and token.level == 1 and token.type == "list_item_open":
                joined = not first_item or (not units and self._in_list)
                units.append(_Unit(token.map[0], token.type, joined, token))
                first_item = False
        return units


def _outdented(line: str, indent: int) -> str:
    own = len(line) - len(line.lstrip(" "))
    return line[min(own, indent) :]


def _completed(text: str) -> str:
    """Markdown that ends in the middle, with its open marks closed, so that it does not change its looks later."""
    text = _TRAILING_MARKS.sub("", text)
    if text.count("`") % 2:
        return f"{text}`"
    return f"{text}**" if text.count("**") % 2 else text
