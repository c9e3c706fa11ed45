"""Colour and width of a terminal, without a library: for one-line output and tables."""

from __future__ import annotations

import os
import sys
from typing import TextIO

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_NARROWEST = 20
_USUAL = 80


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal that understands escape sequences."""
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:  # it is closed
        return False


def has_colour(stream: TextIO | None) -> bool:
    """Whether to use colour: NO_COLOR forbids it (no-color.org), FORCE_COLOR asks for it, else a terminal has it."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "") not in ("", "0"):
        return True
    return is_terminal(stream)


def columns(stream: TextIO | None) -> int | None:
    """The width of a terminal in characters (COLUMNS, else what the terminal says); None: the stream is none."""
    if not is_terminal(stream):
        return None
    return max(_NARROWEST, terminal_width())


def terminal_width() -> int:
    """The width in characters of the terminal that standard output is (COLUMNS, else what the terminal says); 80 where
    it is none. As `shutil.get_terminal_size`, whose import costs a fifth of `miner --help`.
    """
    try:
        width = int(os.environ.get("COLUMNS", 0))
    except ValueError:
        width = 0
    if width > 0:
        return width
    try:
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or _USUAL  # type: ignore[union-attr]
    except (AttributeError, ValueError, OSError):  # closed, or no terminal
        return _USUAL


class Style:
    """Text for a stream: coloured where the stream has colour, else as it is."""

    def __init__(self, stream: TextIO | None) -> None:
        self._coloured = has_colour(stream)

    def bold(self, text: str) -> str:
        """Emphasized text."""
        return self._in("bold", text)

    def dim(self, text: str) -> str:
        """Text of less importance."""
        return self._in("dim", text)

    def red(self, text: str) -> str:
        """A problem."""
        return self._in("red", text)

    def green(self, text: str) -> str:
        """What is well."""
        return self._in("green", text)

    def yellow(self, text: str) -> str:
        """A warning."""
        return self._in("yellow", text)

    def cyan(self, text: str) -> str:
        """A command to type, or an address."""
        return self._in("cyan", text)

    def _in(self, name: str, text: str) -> str:
        return f"\x1b[{_CODES[name]}m{text}\x1b[0m" if self._coloured and text else text
