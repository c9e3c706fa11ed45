"""The screen and the keys of `miner top`. Imports rich, so only what draws imports it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from miner.cli.top.layout import Choice, Line, frame
from miner.cli.top.view import View

_ARROWS = {"A": "up", "B": "down", "C": "right", "D": "left"}


class Screen:
    """Draws the view on the terminal's second screen for the length of the block."""

    def __init__(self, view: View, choice: Choice) -> None:
        self._view = view
        self._choice = choice
        # Without `markup` and `highlight`: names come from clients.
        self._console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
        self._live = Live(console=self._console, screen=True, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> Screen:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def draw(self) -> None:
        """Draw the view as it is now."""
        width, height = self._console.size
        unicode = (self._console.encoding or "").lower().startswith("utf")
        lines = frame(self._view, self._choice, width, height, unicode=unicode)
        self._live.update(_text(lines), refresh=True)


def _text(lines: list[Line]) -> Text:
    text = Text(no_wrap=True, overflow="crop", end="")
    for number, line in enumerate(lines):
        text.append("\n" if number else "")
        for piece, style in line:
            text.append(piece, style or None)
    return text


@contextmanager
def keys_read(on_key: Callable[[str], None]) -> Iterator[None]:
    """Call `on_key` with each key that is pressed: a character, or left, right, up, down."""
    try:
        import termios
        import tty

        number = sys.stdin.fileno()
        before = termios.tcgetattr(number)
    except (ImportError, OSError, ValueError, termios.error):  # no terminal, or Windows: Ctrl-C ends it
        yield
        return
    loop, decoder = asyncio.get_running_loop(), _Decoder()

    def read() -> None:
        data = os.read(number, 1024)
        if not data:  # the terminal is gone
            loop.remove_reader(number)
            on_key("q")
        for key in decoder.feed(data.decode("utf-8", "replace")):
            on_key(key)

    tty.setcbreak(number)
    loop.add_reader(number, read)
    try:
        yield
    finally:
        loop.remove_reader(number)
        termios.tcsetattr(number, termios.TCSADRAIN, before)


class _Decoder:
    """Arrow keys come as three characters, which may arrive apart."""

    def __init__(self) -> None:
        self._left = ""

    def feed(self, text: str) -> list[str]:
        """The keys that are complete."""
        text, keys, place = self._left + text, [], 0
        self._left = ""
        while place < len(text):
            if text[place] == "\x1b":
                sequence = text[place : place + 3]
                if len(sequence) < 3 and sequence in ("\x1b", "\x1b[", "\x1bO"):
                    self._left = sequence
                    break
                if sequence[1] in "[O":
                    if sequence[2] in _ARROWS:
                        keys.append(_ARROWS[sequence[2]])
                    place += 3
                    continue
            keys.append(text[place])
            place += 1
        return keys
