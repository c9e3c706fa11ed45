"""A comparison as text for people."""

from __future__ import annotations

from collections.abc import Sequence

from miner.cli.bench.report import units
from miner.cli.bench.report.compare import SHOWN, Comparison, Failures, Row
from miner.cli.bench.report.table import notes_text
from miner.cli.output.style import Style
from miner.cli.output.tables import aligned, printable

_WHOLE = 79
"""Columns from which a verdict stands in whole words."""

VERDICTS = {
    "better": "better",
    "worse": "worse",
    "no_difference": "no difference that can be told",
    "unknown": "too few requests to tell",
}


def comparison_text(comparison: Comparison, style: Style, columns: int | None = None, *, new_notes: bool = True) -> str:
    """The comparison: what was compared, what is not alike, and each load's figures.

    Args:
        columns: width of the terminal; None: it is none.
        new_notes: whether the notes on the new measurement are still to be said.
    """
    parts = [_heading(comparison, style)]
    for name in dict.fromkeys(row.run for row in comparison.rows):
        rows = [row for row in comparison.rows if row.run == name and row.figure in SHOWN]
        parts.append(f"{style.bold(printable(name))}\n{_table(rows, style, columns)}")
        parts += [text for each in comparison.failures if each.run == name and (text := failures_text(each))]
    for names, which in ((comparison.base_only, "base"), (comparison.new_only, "new one")):
        if names:
            parts.append(f"Only the {which} has {', '.join(map(printable, names))}.")
    notes = [*comparison.notes, *(f"base: {note}" for note in comparison.base_notes)]
    if new_notes:
        notes += [f"new: {note}" for note in comparison.new_notes]
    parts += notes_text(notes, style, columns)
    return "\n\n".join(parts)


def _heading(comparison: Comparison, style: Style) -> str:
    lines = [f"base  {printable(comparison.base)}", f"new   {printable(comparison.new)}"]
    for each in comparison.differences:
        line = f"{each.what.replace('_', ' ')}: {printable(each.base)} | {printable(each.new)}"
        lines.append(style.yellow(f"not alike: {line}") if each.workload else f"differs: {line}")
    if not comparison.alike:
        lines.append(style.yellow("They did not do the same work: the ratios say nothing about speed alone."))
    return "\n".join(lines)


def _table(rows: Sequence[Row], style: Style, columns: int | None) -> str:
    paint = {"better": style.green, "worse": style.red, "no_difference": style.dim, "unknown": style.dim}
    words = verdict if columns is None or columns >= _WHOLE else _short
    cells = [
        [row.words, value(row, row.base), value(row, row.new), ratio(row), paint[row.verdict](words(row))]
        for row in rows
    ]  # fmt: skip
    headings = ["figure", "base", "new", "ratio (95 %)", "verdict"]
    return aligned([headings, *cells], right=frozenset({1, 2}), columns=columns)


def _short(row: Row) -> str:
    return {"no_difference": "no difference", "unknown": "cannot tell"}.get(row.verdict, row.verdict)


def value(row: Row, figure: float) -> str:
    """A figure of a row, with its unit."""
    return units.seconds(figure) if row.better == "lower" else units.rate(figure)


def ratio(row: Row) -> str:
    """The ratio with its interval: `1.02 (0.95-1.10)`."""
    if row.low is None and row.high is None:
        return _two(row.ratio)
    low, high = "?" if row.low is None else _two(row.low), "?" if row.high is None else _two(row.high)
    return f"{_two(row.ratio)} ({low}-{high})"


def _two(value: float) -> str:
    if value != 1 and f"{value:.2f}" == "1.00":
        return f"{value:.3f}"
    return f"{value:.2f}" if 0.1 <= value < 100 else f"{value:.2g}"


def verdict(row: Row) -> str:
    """The verdict of a row in words."""
    if row.verdict == "unknown" and row.spread is None:
        return "one round: cannot be told"
    return VERDICTS[row.verdict]


def failures_text(each: Failures) -> str:
    """The failed requests of a load in words; empty where none failed."""
    if not each.base_failed and not each.new_failed:
        return ""
    said = {"worse": "more than before", "better": "fewer than before"}.get(each.verdict, VERDICTS["no_difference"])
    return (
        f"failed: {each.base_failed} of {each.base_requests} in the base, "
        f"{each.new_failed} of {each.new_requests} in the new one: {said}"
    )


def above_text(found: Sequence[Row | Failures], bound: float) -> str:
    """What is worse than --fail-above allows."""
    lines = [f"Worse than --fail-above {units.percent(bound)} allows:"]
    for each in found:
        if isinstance(each, Row):
            change = units.percent(abs(each.worsened))
            lines.append(
                f"  {printable(each.run)}: {each.words} is {change} worse "
                f"({value(each, each.base)} -> {value(each, each.new)}, ratio {ratio(each)})"
            )
        else:
            lines.append(f"  {printable(each.run)}: {failures_text(each)}")
    return "\n".join(lines)
