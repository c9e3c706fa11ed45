"""The matrix of capabilities as a Markdown table, one column for each backend that was tested into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["write_column"]

_HEADING = "capability"


def write_column(file: Path, name: str, verdicts: Mapping[str, str]) -> None:
    """Put a backend's verdicts into the table of a file: a new column, or in place of the one it had."""
    columns = _read(file)
    columns[name] = dict(verdicts)
    rows = sorted({capability for column in columns.values() for capability in column})
    lines = [
        "What the conformance suite found; made by `pytest --pyargs miner.conformance --miner-backend NAME "
        "--miner-matrix FILE`.",
        "",
        f"| {_HEADING} | {' | '.join(columns)} |",
        "|---|" + "---|" * len(columns),
        *(f"| {row} | {' | '.join(column.get(row, '') for column in columns.values())} |" for row in rows),
    ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _read(file: Path) -> dict[str, dict[str, str]]:
    """The columns that are there already."""
    if not file.exists():
        return {}
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.startswith("|") and not line.startswith("|--")
    ]
    if not rows or rows[0][0] != _HEADING:
        return {}
    names = rows[0][1:]
    return {name: {row[0]: row[place + 1] for row in rows[1:]} for place, name in enumerate(names)}
