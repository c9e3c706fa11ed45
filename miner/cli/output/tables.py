"""Tables, JSON, and untrusted text made safe for a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def aligned(rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Format rows as columns of equal width, those in `right` right-aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def printable(text: str, *, limit: int = 200) -> str:
    """Replace unprintable characters, such as terminal escapes, and truncate to `limit` characters."""
    clean = "".join(char if char.isprintable() else "?" for char in text[: limit + 1])
    return clean if len(clean) <= limit else f"{clean[: limit - 3]}..."


def print_json(value: Any) -> None:
    """Print indented JSON to standard output."""
    print(json.dumps(value, indent=2))
