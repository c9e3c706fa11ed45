"""Tables of text, and text of others made fit for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["aligned", "printable"]


def aligned(rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Lines with columns of equal width; those in `right` end at the same place instead of beginning there."""
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
    """What a file says of itself, without what would steer a terminal, and not without end."""
    clean = "".join(sign if sign.isprintable() else "?" for sign in text[: limit + 1])
    return clean if len(clean) <= limit else f"{clean[: limit - 3]}..."
