"""Text of a model or a server, made safe for a terminal.

An escape sequence in a response could retitle the window, write to the clipboard, or hide what a command does.
"""

from __future__ import annotations

import re

_STYLE = re.compile(r"(\x1b\[[\d;]*m)")

_REPLACED: dict[int, str | None] = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"}
_REPLACED |= {0x7F: "\u2421", 0x0D: None, 0x2028: "\n", 0x2029: "\n"}
# C1 controls act as escape sequences do; the others turn the direction of text around, so that it reads otherwise.
_REPLACED |= dict.fromkeys([*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd")


def visible(text: str) -> str:
    """Replace control characters, but line feeds and tabs, by characters that show them."""
    return text.translate(_REPLACED)


def visible_but_styled(text: str) -> str:
    """`visible` of text that may have our colours in it: these remain."""
    return "".join(part if at % 2 else visible(part) for at, part in enumerate(_STYLE.split(text)))


def one_line(text: str, limit: int = 200) -> str:
    """Text on one line of at most `limit` characters."""
    line = " ".join(visible(text).split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."
