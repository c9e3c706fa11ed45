"""The doctor on a terminal: a line a row, details for what is not ok, a status line while it runs."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Iterator
from itertools import groupby
from typing import TextIO

from miner.cli.doctor.report import Found, Report
from miner.cli.doctor.row import Row, Verdict
from miner.cli.output.style import Style, columns, is_terminal
from miner.cli.output.tables import printable

_MARKS: dict[Verdict, str] = {"ok": "ok", "note": "note", "problem": "problem", "skipped": "skipped"}
_MARK_WIDTH = 7
_NARROW = 60
"""Columns below which the name and what was found stand in lines of their own."""
_WIDEST = 120
"""No line of text is longer: the eye loses its place."""
_PIPED = 100
_LONGEST = 600
"""Characters of one text."""


def print_report(report: Report, stream: TextIO, *, all_values: bool, quiet: bool = False) -> None:
    """Print it for a person.

    Args:
        all_values: show what was seen of each row, not only of those that are not ok.
        quiet: only what is not ok.
    """
    width = min(columns(stream) or _PIPED, _WIDEST)
    style = Style(stream)
    shown = [each for each in report.found if not quiet or each.row.verdict in ("problem", "note")]
    for group, rows in groupby(shown, key=lambda each: each.group):
        print(style.bold(group), file=stream)
        for each in rows:
            for line in _lines(each, style, width, all_values=all_values):
                print(line, file=stream)
        print(file=stream)
    for line in _ending(report, style, width):
        print(line, file=stream)


def _lines(each: Found, style: Style, width: int, *, all_values: bool) -> Iterator[str]:
    row = each.row
    mark = _coloured(row.verdict, style)
    name, summary = printable(row.name, limit=60), printable(row.summary, limit=_LONGEST)
    if width < _NARROW:
        yield f" {mark} {name}"
        indent = 2
        yield from _wrapped(summary, width, indent)
    else:
        indent = _MARK_WIDTH + 2
        text = summary if summary.startswith(name) else f"{name}: {summary}"
        first, *rest = _wrapped(text, width, indent)
        yield f" {mark}{' ' * (_MARK_WIDTH - len(_MARKS[row.verdict]))} {first.lstrip()}"
        yield from rest
    wrong = row.verdict != "ok"
    if row.hint and (wrong or all_values):
        yield from _wrapped(printable(row.hint, limit=_LONGEST), width, indent, style.dim)
    if row.fix and (wrong or all_values):
        # Never broken: a line to paste is one line.
        yield f"{' ' * indent}{style.cyan(f'-> {printable(row.fix, limit=_LONGEST)}')}"
    if all_values:
        for key, value in row.seen.items():
            yield from _wrapped(f"{printable(key)}: {_value(value)}", width, indent, style.dim)


def _value(value: object) -> str:
    if isinstance(value, dict):
        text = ", ".join(f"{key}={_value(each)}" for key, each in value.items())
    elif isinstance(value, list):
        text = ", ".join(map(_value, value))
    else:
        text = "-" if value is None else str(value)
    return printable(text, limit=_LONGEST)


def _coloured(verdict: Verdict, style: Style) -> str:
    kind = {"ok": style.green, "note": style.yellow, "problem": style.red, "skipped": style.dim}[verdict]
    return kind(_MARKS[verdict])


def _wrapped(text: str, width: int, indent: int, paint: object = None) -> list[str]:
    lines = textwrap.wrap(
        text,
        max(width - 1, indent + 12),
        initial_indent=" " * indent,
        subsequent_indent=" " * indent,
        break_long_words=True,
        break_on_hyphens=False,
    )
    return [f"{' ' * indent}{paint(line[indent:])}" for line in lines] if callable(paint) else lines or [""]


def _ending(report: Report, style: Style, width: int) -> Iterator[str]:
    skipped = report.count("skipped")
    kind = style.red if report.count("problem") else style.yellow if report.count("note") else style.green
    more = f" ({report.count('ok')} ok" + (f", {skipped} skipped)" if skipped else ")")
    yield f"{kind(report.summary[:1].upper() + report.summary[1:])}{more}"
    first = report.first
    if first is not None:
        what = first.fix or first.hint or first.summary
        for number, line in enumerate(_wrapped(f"First: {printable(first.name, limit=60)}", width, 0)):
            yield line if number else style.bold(line)
        if first.fix:
            yield f"  {style.cyan(f'-> {printable(what, limit=_LONGEST)}')}"
        else:
            yield from _wrapped(printable(what, limit=_LONGEST), width, 2)


def first_fix(row: Row) -> str:
    """The line, or the words where there is none."""
    return row.fix or row.hint or row.summary


class Pending:
    """A status line on standard error with what is still running; nothing where that is no terminal."""

    def __init__(self) -> None:
        self._width = columns(sys.stderr) if is_terminal(sys.stderr) else None
        self._began = time.monotonic()
        self._drawn = False

    def show(self, names: list[str]) -> None:
        """Draw it."""
        if self._width is None:
            return
        seconds = time.monotonic() - self._began
        line = f"checking ({seconds:.0f} s): {', '.join(names)}"
        self._put(line if len(line) < self._width else f"{line[: self._width - 4]}...")
        self._drawn = True

    def erase(self) -> None:
        """Clear it."""
        if self._drawn:
            self._put("")

    @staticmethod
    def _put(line: str) -> None:
        try:
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
        except (OSError, ValueError):
            pass
