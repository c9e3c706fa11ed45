"""The words of a command's line."""

from __future__ import annotations

import re

_QUOTED = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|((?:\\.|[^\s\\])+))\s*(.*)""", re.DOTALL)


def first_word(text: str) -> tuple[str, str]:
    """The first word, which may be in quotes or have escaped spaces, as a dropped file has; and the rest."""
    found = _QUOTED.fullmatch(text)
    if found is None:
        return "", ""
    double, single, bare, rest = found.groups()
    word = double if double is not None else single
    return (re.sub(r"\\(.)", r"\1", bare) if word is None else word), rest


def unquoted(name: str) -> str:
    """A name without the quotes around it; what has several words is as it was."""
    word, rest = first_word(name)
    return name if rest else word
