"""Text on lines of a given width, measured in terminal cells. `miner --help` loads this module."""

from __future__ import annotations

import re

_SEQUENCE = re.compile(r"\x1b\[[0-9;]*m")
"""Colour."""
_LIST = re.compile(r"( *)(\S+ {2,})(?=\S)")
"""A line such as "  130  interrupted by Ctrl-C": an entry, and what it means."""


def cell_len(text: str) -> int:
    """Columns that a text takes in a terminal: wide characters take two, combining ones and escape sequences none."""
    if text.isascii() and "\x1b" not in text:
        return len(text)
    from unicodedata import combining, east_asian_width

    plain = _SEQUENCE.sub("", text)
    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in plain)


def wrapped(text: str, width: int, indent: str = "") -> str:
    """Break a text between words into lines that fit a width, each after `indent`; a longer word is a line of its own.
    Unlike textwrap it counts cells, and leaves options such as `--max-tokens` and names such as MINER_MAX_QUEUE whole.
    """
    lines: list[str] = []
    for word in text.split(" "):
        if lines and cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(indent + word)
    return "\n".join(line.rstrip() for line in lines)


def fitted(text: str, width: int) -> str:
    """Prose, lists and commands, written for 80 columns, as they are where they fit a width, else broken anew.

    Commands, which are indented lines, are continued with a backslash, so that they can be pasted; lists of two columns
    keep their indent; other lines that follow each other are one paragraph.
    """
    done: list[str] = []
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if all(cell_len(line) <= width for line in lines):
            done.append(block.rstrip("\n"))
            continue
        prose: list[str] = []
        shown: list[str] = []
        for line in [*lines, None]:
            entry = _LIST.match(line) if line is not None else None
            separate = line is None or line.startswith(" ") or line.endswith(":") or entry is not None
            if separate and prose:
                shown.append(wrapped(" ".join(prose), width))
                prose = []
            if line is None:
                break
            if entry is not None:
                shown.append(
                    wrapped(line[entry.end() :], width, " " * entry.end()).replace(" " * entry.end(), entry[0], 1)
                )
            elif line.startswith(" "):
                shown.append(_command(line, width))
            elif separate:
                shown.append(wrapped(line, width))
            else:
                prose.append(line)
        done.append("\n".join(shown))
    return "\n\n".join(done) + ("\n" if text.endswith("\n") else "")


def _command(line: str, width: int) -> str:
    """A command with backslashes at the ends of lines: between words only, and not inside quotes."""
    if cell_len(line) <= width:
        return line
    indent = line[: len(line) - len(line.lstrip())]
    continued = line.endswith("\\")
    lines: list[str] = []
    for word in _words(line.strip().removesuffix("\\").rstrip()):
        if lines and cell_len(lines[-1]) + cell_len(word) + 3 <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(f"{indent}{'    ' if lines else ''}{word}")
    return " \\\n".join(lines) + (" \\" if continued else "")


def _words(command: str) -> list[str]:
    """The words of a command, quoted ones whole."""
    return re.findall(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""", command)
