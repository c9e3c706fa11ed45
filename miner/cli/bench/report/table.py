"""A measurement as a table of text: `miner bench` on standard output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from miner.cli.bench.report import units
from miner.cli.bench.report.figures import E2E, ITL, LATENCIES, POINTS, SPEED, TPOT, TTFT, Latency, engine
from miner.cli.bench.result import Result, Run
from miner.cli.output.style import Style
from miner.cli.output.tables import aligned, cell_len, printable
from miner.cli.output.wrap import wrapped
from miner.core.counted import counted

_WIDEST = 200
"""Columns where the output is no terminal."""

Column = tuple[str, Callable[[Run], str]]


def table(result: Result, style: Style, columns: int | None = None) -> str:
    """The runs of a result, one a line; every percentile where there is but one run.

    Args:
        columns: width of the terminal; None: it is none.
    """
    width = columns or _WIDEST
    if not result.runs:
        return "Nothing was measured."
    parts = [_heading(result, style)]
    if len(result.runs) == 1:
        run = result.runs[0]
        parts += [_facts(run), _percentiles(run, style, width)]
    else:
        parts += _runs(result, style, width)
    parts += _failures(result.runs, style)
    parts += notes_text(result.notes, style, columns)
    return "\n\n".join(parts)


def notes_text(notes: Sequence[str], style: Style, columns: int | None) -> list[str]:
    """Notes for people, broken between words."""
    said = [f"Note: {printable(note, limit=400)}" for note in notes]
    return [style.yellow(wrapped(each, columns) if columns else each) for each in said]


def _heading(result: Result, style: Style) -> str:
    model = printable(result.target.model or "The default model", limit=80)
    return f"{style.bold(model)} on {printable(engine(result), limit=80)}"


def _facts(run: Run) -> str:
    """What one run has once."""
    rows = [
        ("load", printable(run.name)),
        ("requests", _requests(run)),
        ("duration", units.seconds(run.duration)),
        ("output tokens/s", units.rate(run.output_throughput)),
        ("total tokens/s", units.rate(run.total_throughput)),
        ("requests/s", units.rate(run.request_throughput)),
    ]
    if run.goodput is not None:
        rows.append(("goodput", f"{_goodput(run)} requests/s, {units.percent(run.goodput.share)} met the objective"))
    if run.cached_tokens is not None:
        rows.append(("cached prompt tokens", units.whole(run.cached_tokens)))
    return aligned(rows)


def _requests(run: Run) -> str:
    parts = [f"{run.completed} of {run.requests} completed"]
    if run.failed:
        parts.append(f"{run.failed} failed")
    if run.cancelled:
        parts.append(f"{run.cancelled} cancelled on purpose")
    if run.partial:
        parts.append("stopped before the end")
    return ", ".join(parts)


def _percentiles(run: Run, style: Style, width: int) -> str:
    """Each latency of a run with its mean and percentiles."""
    rows = [["", *POINTS]]
    for figure in LATENCIES:
        found = figure.of(run)
        if found is not None:
            rows.append([figure.short, *(figure.text(getattr(found, point)) for point in POINTS)])
    if len(rows) == 1:
        return "No request was completed, so there is no latency."
    rows[0][0] = "latency"
    return _drawn(rows, style, width)


def _runs(result: Result, style: Style, width: int) -> list[str]:
    """One line a run: one table where all columns fit, else one of throughput and one of latencies."""
    runs = result.runs
    name: Column = ("run", lambda run: printable(run.name, limit=60) + (" (partial)" if run.partial else ""))
    work: list[Column] = [("ok", lambda run: str(run.completed))]
    if any(run.failed for run in runs):
        work.append(("failed", lambda run: str(run.failed)))
    if any(run.cancelled for run in runs):
        work.append(("cancelled", lambda run: str(run.cancelled)))
    work += [
        ("tokens/s", lambda run: units.rate(run.output_throughput)),
        ("requests/s", lambda run: units.rate(run.request_throughput)),
    ]
    if any(run.goodput is not None for run in runs):
        work.append(("goodput/s", _goodput))
    latency: list[Column] = [
        (f"{figure.short} {point}", partial(_cell, figure, point))
        for figure in (TTFT, TPOT, ITL, E2E)
        for point in ("p50", "p99")
        if any(figure.of(run) for run in runs)
    ]
    speed: Column = (f"{SPEED.short} p50", partial(_cell, SPEED, "p50"))
    whole = _rows(runs, [name, *work, *latency])
    if _wide(whole) <= width:
        return [_drawn(whole, style, width)]
    tables = [_rows(runs, [name, *work, speed]), _rows(runs, [name, *latency])]
    if _wide(tables[0]) > width:
        tables[0] = _rows(runs, [name, *work])
    if _wide(tables[1]) > width >= _wide(_rows(runs, [name, *latency[:4]])):
        half = len(latency) // 2
        tables[1:] = [_rows(runs, [name, *latency[:half]]), _rows(runs, [name, *latency[half:]])]
    return [_drawn(rows, style, width) for rows in tables]


def _rows(runs: Sequence[Run], shown: Sequence[Column]) -> list[list[str]]:
    return [[heading for heading, _ in shown], *([cell(run) for _, cell in shown] for run in runs)]


def _drawn(rows: list[list[str]], style: Style, width: int) -> str:
    drawn = aligned(rows, right=frozenset(range(1, len(rows[0]))), columns=width)
    first, line, rest = drawn.partition("\n")
    return style.bold(first) + line + rest if _wide(rows) <= width else drawn


def _wide(rows: list[list[str]]) -> int:
    """The columns that a table takes."""
    return sum(max(cell_len(row[column]) for row in rows) + 2 for column in range(len(rows[0]))) - 2


def _cell(figure: Latency, point: str, run: Run) -> str:
    found = figure.of(run)
    return figure.text(None if found is None else getattr(found, point))


def _goodput(run: Run) -> str:
    return "-" if run.goodput is None else units.rate(run.goodput.requests_per_second)


def _failures(runs: Sequence[Run], style: Style) -> list[str]:
    """How many failed of what, with a message of each kind."""
    counts: dict[str, int] = {}
    examples: dict[str, str] = {}
    for run in runs:
        for code, count in run.errors.items():
            counts[code] = counts.get(code, 0) + count
            examples.setdefault(code, run.error_examples.get(code, ""))
    if not counts:
        return []
    lines = [
        f"{counted(count, 'request')} failed with {printable(code, limit=60)}"
        + (f": {printable(examples[code])}" if examples[code] else ".")
        for code, count in sorted(counts.items(), key=lambda item: -item[1])
    ]
    return [style.red("\n".join(lines))]
