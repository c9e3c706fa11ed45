"""How a response appears while it arrives: as Markdown that is redrawn, or as plain text."""

from __future__ import annotations

import asyncio
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from miner.cli.output.errors import complain
from miner.cli.output.style import Style
from miner.cli.output.visible import visible
from miner.core._typing import override

if TYPE_CHECKING:
    from miner.cli.chat.screen import Screen

_FRAME_SECONDS = 0.04
_SHARE = 8
"""Drawing a frame takes at most one part in so many of the time."""
_CLOCK_SECONDS = 0.5


class View(Protocol):
    """Shows one response."""

    @abstractmethod
    def reasoning(self, text: str) -> None:
        """Add reasoning."""

    @abstractmethod
    def content(self, text: str) -> None:
        """Add text of the response itself."""

    @abstractmethod
    def status(self, text: str) -> None:
        """Say what happens meanwhile."""

    @abstractmethod
    def interject(self, lines: list[str]) -> None:
        """Print lines that are not the response's."""

    @abstractmethod
    def end(self) -> None:
        """No more comes: print what is left."""


class PlainView(View):
    """Text as it comes, without moving the cursor: for dumb terminals, pipes and files.

    Args:
        put: writes text.
        clean: replace control characters. Not for a file, which gets what the model wrote.
    """

    def __init__(self, put: Callable[[str], None], *, clean: bool, reasoning: bool) -> None:
        self._put = put
        self._clean = clean
        self._with_reasoning = reasoning
        self._reasons = False
        self._at_start = True

    @override
    def reasoning(self, text: str) -> None:
        if self._with_reasoning:
            if not self._reasons:
                self._write("Reasoning...\n")
            self._reasons = True
            self._write(text)

    @override
    def content(self, text: str) -> None:
        if self._reasons:
            self._write(f"{'' if self._at_start else chr(10)}...done reasoning.\n\n")
            self._reasons = False
        self._write(text)

    @override
    def status(self, text: str) -> None:
        pass

    @override
    def interject(self, lines: list[str]) -> None:
        complain("\n".join(lines))

    @override
    def end(self) -> None:
        if not self._at_start:
            self._write("\n")

    def _write(self, text: str) -> None:
        if text:
            self._put(visible(text) if self._clean else text)
            self._at_start = text.endswith("\n")


class MarkdownView(View):
    """Markdown on a terminal.

    Args:
        language: all of the response is code in this language.
        reasoning: whether it is shown.
    """

    def __init__(self, screen: Screen, *, colour: bool, language: str | None, reasoning: bool) -> None:
        from miner.cli.chat.blocks import Blocks
        from miner.cli.chat.render import Renderer

        self._screen = screen
        self.renderer = Renderer(screen.columns, colour=colour)
        self._blocks = Blocks(language)
        self._style = Style(sys.stdout)
        self._with_reasoning = reasoning
        self._thoughts = ""
        """Reasoning that is not printed yet: less than a line."""
        self._reasons = False
        self._began = self._frame_at = time.monotonic()
        self._interval = _FRAME_SECONDS
        self._status = ""
        self._printed: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._columns = screen.columns

    @override
    def reasoning(self, text: str) -> None:
        if not self._with_reasoning:
            return
        if not self._reasons:
            self._reasons = True
            self._printed.append(self._style.dim("┌ reasoning"))
        self._thoughts += visible(text)
        self._soon()

    @override
    def content(self, text: str) -> None:
        if self._reasons:
            self._end_reasoning()
        self._blocks.add(visible(text))
        self._soon()

    @override
    def status(self, text: str) -> None:
        self._status = visible(text)
        self._soon()

    @override
    def interject(self, lines: list[str]) -> None:
        self._printed += lines
        self._soon()

    @override
    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._reasons:
            self._end_reasoning()
        self._frame(ended=True)

    def _end_reasoning(self) -> None:
        self._printed += [*self._reasoning_lines(self._thoughts.rstrip()), self._style.dim("└"), ""]
        self._reasons, self._thoughts = False, ""

    def _reasoning_lines(self, text: str) -> list[str]:
        """Text behind a bar, in lines that fit."""
        width = max(8, self._screen.columns - 3)
        return (
            [self._style.dim(f"│ {row}") for line in text.split("\n") for row in _wrapped(line, width)] if text else []
        )

    def _soon(self) -> None:
        """Draw a frame, now or when the last one is long enough ago."""
        if self._timer is None:
            wait = max(0.0, self._frame_at + self._interval - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(wait, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._frame()
        if self._timer is None:  # the clock in the status goes on
            self._timer = asyncio.get_running_loop().call_later(_CLOCK_SECONDS, self._tick)

    def _frame(self, *, ended: bool = False) -> None:
        began = time.monotonic()
        if self._screen.columns != self._columns:
            self._columns = self._screen.columns
            self.renderer.resize(self._columns)
        printed, self._printed = self._printed, []
        below: list[str] = []
        if self._reasons:
            done, _, self._thoughts = self._thoughts.rpartition("\n")
            printed += self._reasoning_lines(done)
            rows = self._reasoning_lines(self._thoughts)
            if len(rows) > 1:  # all rows but the last stay as they are, however the line goes on
                printed += rows[:-1]
                self._thoughts = _last_row(self._thoughts, max(8, self._screen.columns - 3))
            below = rows[-1:]
        for piece in self._blocks.finished(ended=ended):
            printed += self.renderer.finished(piece)
        for piece in self._blocks.open():
            below += self.renderer.open(piece)
        self._screen.show(printed, [] if ended else [*below, *self._status_line(bool(below))])
        self._frame_at = time.monotonic()
        self._interval = max(_FRAME_SECONDS, _SHARE * (self._frame_at - began))

    def _status_line(self, gap: bool) -> Sequence[str]:
        seconds = time.monotonic() - self._began
        clock = f"{seconds:.0f} s" if seconds >= 1 else ""
        text = " · ".join(filter(None, (self._status, clock, "Ctrl-C stops")))
        line = self._style.dim(text[: self._screen.columns - 1])
        return ["", line] if gap else [line]


def _wrapped(line: str, width: int) -> list[str]:
    """A line in rows of at most `width` cells, broken at spaces; a row does not change when more text follows."""
    from rich.cells import cell_len

    if cell_len(line) <= width:
        return [line]
    rows, row, used = [], "", 0
    for word in _words(line, width):
        cells = cell_len(word)
        if used + cell_len(word.rstrip()) > width and row:
            rows.append(row.rstrip())
            row, used = "", 0
        row += word
        used += cells
    return [*rows, row]


def _words(line: str, width: int) -> list[str]:
    """Words with the spaces behind them; longer ones are cut."""
    import re

    from rich.cells import chop_cells

    words: list[str] = []
    for word in re.findall(r"\S+\s*|\s+", line.expandtabs(4)):
        words += [word] if len(word) * 2 <= width else chop_cells(word, width)
    return words


def _last_row(line: str, width: int) -> str:
    return _wrapped(line, width)[-1]
