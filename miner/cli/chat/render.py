"""Pieces of a response as lines for the terminal: Markdown by rich, code by pygments."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any, ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import (
    CodeBlock,
    Heading,
    HorizontalRule,
    ListElement,
    ListItem,
    Markdown,
    MarkdownElement,
    TableElement,
)
from rich.rule import Rule
from rich.segment import Segment
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

from miner.cli.chat.blocks import Piece
from miner.core._typing import override

_CODE_THEME = "ansi_dark"
"""The terminal's own sixteen colours, so that it can be read on light and dark ground."""
_CONTEXT_LINES = 40
"""Lines of code before a new one that are looked at to highlight it."""
_THEME = Theme(
    {
        "markdown.h1": "bold underline",
        "markdown.h2": "bold",
        "markdown.h3": "bold",
        "markdown.h4": "bold",
        "markdown.code": "bold cyan",
        "markdown.code_block": "none",
        "markdown.block_quote": "italic",
        "markdown.item.bullet": "bold",
        "markdown.item.number": "bold",
        "markdown.hr": "dim",
        "markdown.table.border": "dim",
        "markdown.table.header": "bold",
    }
)
_NUMBER_WIDTH = 4
_LONGEST_TITLE = 30
"""Characters of a code block's first line that stand in the rule above it."""


class Renderer:
    """Renders pieces, for one response.

    Args:
        columns: the terminal's width; each line of prose is shorter.
        colour: False under NO_COLOR.
    """

    def __init__(self, columns: int, *, colour: bool) -> None:
        self.rendered_characters = 0
        """Characters that were rendered so far, each as often as it was."""
        self._colour = colour
        self._code: list[str] = []
        self._language = "text"
        self.resize(columns)

    def resize(self, columns: int) -> None:
        """Render for another width from now on."""
        self._columns = max(10, columns - 1)
        self._console = Console(
            file=io.StringIO(),
            width=self._columns,
            height=10_000,
            force_terminal=True,
            color_system="standard",  # also without colour: bold and underlined are none
            no_color=not self._colour,
            legacy_windows=False,
            highlight=False,
            emoji=False,
            markup=False,
            theme=_THEME,
            _environ={},
        )

    def finished(self, piece: Piece) -> list[str]:
        """Return the lines of a piece that will not change."""
        gap = [""] if piece.gap else []
        self.rendered_characters += len(piece.text)
        match piece.kind:
            case "code_begin":
                self._language, self._code = (piece.text.split() or ["text"])[0], []
                if len(piece.text) > _LONGEST_TITLE:  # some models write on behind the marks
                    return [*gap, self._rule(""), piece.text]
                return [*gap, self._rule(piece.text)]
            case "code":
                lines = piece.text.split("\n")
                shown = self._highlighted(lines)
                self._code = [*self._code, *lines][-_CONTEXT_LINES:]
                return shown
            case "code_end":
                return [self._rule("")]
        return gap + self._lines(ChatMarkdown(piece.text))

    def open(self, piece: Piece) -> list[str]:
        """Return the lines of a piece that is not complete."""
        self.rendered_characters += len(piece.text)
        if piece.kind == "code":
            return self._highlighted(piece.text.split("\n"))
        return ([""] if piece.gap else []) + self._lines(ChatMarkdown(piece.text))

    def _rule(self, title: str) -> str:
        width = min(self._columns, 60)
        line = f"── {title} " if title else ""
        return self._lines(Text(line + "─" * max(2, width - len(line)), style="dim"))[0]

    def _highlighted(self, lines: list[str]) -> list[str]:
        """The last of the lines, highlighted as what follows the code before them. They are not wrapped: the terminal
        does that, and what is copied is the line as it was.
        """
        before = self._code
        self.rendered_characters += sum(map(len, before))
        syntax = Syntax("", self._language, theme=_CODE_THEME, background_color="default")
        text = syntax.highlight("\n".join([*before, *lines]))
        shown = text.split("\n", allow_blank=True)[len(before) : len(before) + len(lines)]
        with self._console.capture() as capture:
            for line in shown:
                self._console.print(line, soft_wrap=True)
        rendered = capture.get().removesuffix("\n").split("\n")
        return rendered + [""] * (len(lines) - len(rendered))

    def _lines(self, renderable: Any) -> list[str]:
        lines = self._console.render_lines(renderable, pad=False)
        shown = [self._joined(line) for line in lines]
        while shown and not shown[0]:
            del shown[0]
        while shown and not shown[-1]:
            del shown[-1]
        return shown

    def _joined(self, line: list[Segment]) -> str:
        while line and not line[-1].text.strip() and not (line[-1].style and line[-1].style.bgcolor):
            line = line[:-1]
        text = "".join(self._console._render_buffer([segment]) for segment in line)
        return text.rstrip() if not text.endswith("m") else text


class _Heading(Heading):
    """A heading at the left margin."""

    @override
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.text


class _Code(CodeBlock):
    """A code block inside a list or a quote."""

    @override
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = str(self.text).rstrip()
        yield Syntax(code, self.lexer_name, theme=_CODE_THEME, word_wrap=True, background_color="default")


class _Item(ListItem):
    """An item whose number is as wide alone as in its list, since items are rendered one by one."""

    @override
    def render_number(self, console: Console, options: ConsoleOptions, number: int, last_number: int) -> RenderResult:
        numeral = f"{number}.".rjust(_NUMBER_WIDTH - 1) + " "
        lines = console.render_lines(self.elements, options.update(width=max(4, options.max_width - len(numeral))))
        style = console.get_style("markdown.item.number")
        for at, line in enumerate(lines):
            yield Segment(numeral, style) if at == 0 else Segment(" " * len(numeral))
            yield from line
            yield Segment("\n")


class _Table(TableElement):
    """A table without a margin."""

    @override
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, style="markdown.table.border")
        if self.header is not None and self.header.row is not None:
            for column in self.header.row.cells:
                heading = column.content.copy()
                heading.stylize("markdown.table.header")
                table.add_column(heading, overflow="fold", justify=column.justify)
        if self.body is not None:
            for row in self.body.rows:
                table.add_row(*(cell.content for cell in row.cells))
        yield table


class _Rule(HorizontalRule):
    """A line of the block's width."""

    @override
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Rule(style="markdown.hr")


class ChatMarkdown(Markdown):
    """Markdown as models write it: lines stay lines, HTML is text, links show their address."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Heading,
        "fence": _Code,
        "code_block": _Code,
        "hr": _Rule,
        "list_item_open": _Item,
        "ordered_list_open": ListElement,
        "table_open": _Table,
    }

    def __init__(self, markup: str) -> None:
        parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("reference")
        super().__init__("", hyperlinks=False)
        self.parsed = parser.parse(markup)
        for token in self.parsed:
            if token.children:
                token.children = list(_rewritten(token.children))


def _rewritten(tokens: Iterable[Token]) -> Iterable[Token]:
    """Inline tokens with the address of links and images behind their text."""
    target, text = "", ""
    for token in tokens:
        if token.type == "softbreak":
            token.type = "hardbreak"
        elif token.type == "link_open":
            target, text = str(token.attrs.get("href", "")), ""
            continue
        elif token.type == "link_close":
            if target.removeprefix("mailto:") != text:
                yield Token("text", "", 0, content=f" ({target})")
            continue
        elif token.type == "image":
            token = Token("text", "", 0, content=f"{token.content or 'image'} ({token.attrs.get('src', '')})")
        text += token.content
        yield token
