"""Tables, JSON, and untrusted text made safe for a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from miner.cli.output.wrap import cell_len, wrapped

__all__ = ["aligned", "cell_len", "name_values", "print_json", "printable", "with_lines"]

_LEAST = 16
"""Characters that a value needs beside its name; with fewer it stands below."""


def aligned(rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset(), columns: int | None = None) -> str:
    """Format rows as columns of equal width, those in `right` right-aligned.

    Args:
        rows: the headings first where `columns` is given.
        columns: the width of the terminal (`style.columns`). A table that is wider becomes a block of `HEADING  value`
            lines a row, with an empty line between two.
    """
    widths = [max(cell_len(row[column]) for row in rows) for column in range(len(rows[0]))]
    if columns is not None and sum(widths) + 2 * (len(widths) - 1) > columns:
        return _blocks(rows, columns)
    lines = []
    for row in rows:
        cells = (
            " " * (width - cell_len(cell)) + cell if column in right else cell + " " * (width - cell_len(cell))
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def with_lines(
    rows: Sequence[Sequence[str]], below: Sequence[str | None], *, right: frozenset[int] = frozenset(),
    columns: int | None = None,
) -> str:  # fmt: skip
    """Format rows as `aligned` does, each with a line below it; None: without one.

    Args:
        rows: the headings first.
        below: for each row but the headings.
    """
    table = aligned(rows, right=right, columns=columns)
    blocks = len(rows) > 1 and len(table.split("\n")) != len(rows)
    head, parts = ([], table.split("\n\n")) if blocks else ([table.split("\n")[0]], table.split("\n")[1:])
    shown = [
        part if line is None else f"{part}\n{_below(line, columns)}" for part, line in zip(parts, below, strict=True)
    ]
    return ("\n\n" if blocks else "\n").join([*head, *shown])


def _below(line: str, columns: int | None) -> str:
    return f"  {line}" if columns is None else wrapped(line, columns, "  ")


def _blocks(rows: Sequence[Sequence[str]], columns: int) -> str:
    headings, *values = rows
    return "\n\n".join(name_values(list(zip(headings, row, strict=True)), columns=columns) for row in values)


def name_values(rows: Sequence[tuple[str, str]], *, columns: int | None) -> str:
    """Format names and values in two columns, values that do not fit on several lines."""
    width = max((cell_len(name) for name, _ in rows), default=0) + 2
    if columns is None:
        return "\n".join(f"{name}{' ' * (width - cell_len(name))}{value}".rstrip() for name, value in rows)
    if columns - width < _LEAST:  # the names leave no room beside them
        return "\n".join(f"{wrapped(name, columns)}\n{wrapped(value, columns, '    ')}" for name, value in rows)
    lines = []
    for name, value in rows:
        text = wrapped(value, columns, " " * width)
        lines.append(f"{name}{' ' * (width - cell_len(name))}{text[width:]}".rstrip())
    return "\n".join(lines)


def printable(text: str, *, limit: int = 200) -> str:
    """Replace unprintable characters, such as terminal escapes, and truncate to `limit` characters."""
    clean = "".join(char if char.isprintable() else "?" for char in text[: limit + 1])
    return clean if len(clean) <= limit else f"{clean[: limit - 3]}..."


def print_json(value: Any) -> None:
    """Print indented JSON to standard output."""
    print(json.dumps(value, indent=2))
