"""Pairs of a name and what it means, at any width."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence


def listed(pairs: Sequence[tuple[str, str]], width: int | None) -> str:
    """Names in a column, what they mean beside it; below it where the terminal is too narrow."""
    width = min(width or 100, 100)
    column = max(len(name) for name, _ in pairs) + 2
    lines = []
    for name, text in pairs:
        if column <= width // 2:
            rows = textwrap.wrap(text, width - column) or [""]
            lines += [f"{(name if at == 0 else ''):{column}}{row}".rstrip() for at, row in enumerate(rows)]
        else:
            lines += [name, *textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="  ")]
    return "\n".join(lines)
