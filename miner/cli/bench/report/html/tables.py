"""The tables of a page: what was compared, the runs, failures, where it was measured, what the figures mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

from miner.cli.bench.report import units
from miner.cli.bench.report.compare import SHOWN, Comparison, Row
from miner.cli.bench.report.comparison_text import failures_text, ratio, value, verdict
from miner.cli.bench.report.figures import E2E, ITL, LATENCIES, POINTS, SPEED, TPOT, TTFT, engine
from miner.cli.bench.report.html.entries import Entry
from miner.cli.bench.report.html.markup import Markup, tag
from miner.cli.bench.result import Result, Run
from miner.core.counted import counted
from miner.core.models.memory.verdict import readable

_SIGNS = {"better": "▲", "worse": "▼", "no_difference": "=", "unknown": "?"}
_WHISKER = 180


def comparison_table(comparison: Comparison, base: str, new: str) -> Markup:
    """Each figure of each load with its ratio, drawn on one scale."""
    parts = [tag("h2", f"{new} against {base}"), _verdict_words(comparison)]
    if not comparison.alike:
        what = ", ".join(each.what.replace("_", " ") for each in comparison.differences if each.workload)
        parts.append(
            tag(
                "p", f"They did not do the same work ({what}): the ratios say nothing about speed alone.", class_="note"
            )
        )
    rows = [row for row in comparison.rows if row.figure in SHOWN]
    low, high = _scale(rows)
    head = tag(
        "thead",
        tag("tr", *(tag("th", name, scope="col") for name in ("figure", base, new)),
            tag("th", "ratio, with 95 % interval", scope="col", colspan=2),
            tag("th", "verdict", scope="col", class_="verdict")),
    )  # fmt: skip
    bodies = []
    for name in dict.fromkeys(row.run for row in rows):
        lines = [tag("tr", tag("th", name, colspan=6, scope="rowgroup"), class_="group")]
        lines += [_comparison_row(row, low, high) for row in rows if row.run == name]
        lines += [
            tag("tr", tag("td", words, colspan=6, class_="words"))
            for each in comparison.failures
            if each.run == name and (words := failures_text(each))
        ]
        bodies.append(tag("tbody", *lines))
    parts.append(tag("div", tag("table", head, *bodies), class_="scroll", tabindex=0))
    only = [(comparison.base_only, base), (comparison.new_only, new)]
    parts += [tag("p", f"Only {which} has {', '.join(names)}.", class_="lead") for names, which in only if names]
    return tag("section", *parts)


def _comparison_row(row: Row, low: float, high: float) -> Markup:
    return tag(
        "tr",
        tag("th", row.words, scope="row"),
        tag("td", value(row, row.base)),
        tag("td", value(row, row.new)),
        tag("td", _whisker(row, low, high), class_="whisker"),
        tag("td", ratio(row)),
        tag("td", f"{_SIGNS[row.verdict]} {verdict(row)}", class_=f"verdict {row.verdict}"),
    )


def in_short(comparison: Comparison, base: str, new: str) -> Markup:
    """What changed at the smallest and at the largest load, in sentences."""
    names = list(dict.fromkeys(row.run for row in comparison.rows))
    lines = []
    for name in dict.fromkeys((names[0], names[-1])):
        rows = {row.figure: row for row in comparison.rows if row.run == name}
        said = [
            f"{what} {_times(rows[figure])}"
            for figure, what in (("output_throughput", "tokens per second"), ("ttft.p50", "median TTFT"),
                                 ("tpot.p50", "median TPOT"))
            if figure in rows
        ]  # fmt: skip
        lines.append(tag("li", tag("strong", f"At {name}: "), ", ".join(said), "."))
    lead = f"{new} against {base}, in short"
    return tag("section", tag("h2", lead), tag("ul", *lines, class_="short"))


def _times(row: Row) -> str:
    if row.verdict == "no_difference":
        return "without a difference that can be told"
    return f"× {ratio(row)}" + (" (too few requests to tell)" if row.verdict == "unknown" else "")


def _verdict_words(comparison: Comparison) -> Markup:
    counts = {each: sum(row.verdict == each for row in comparison.rows if row.figure in SHOWN) for each in _SIGNS}
    words = [
        f"{counts['better']} better", f"{counts['worse']} worse",
        f"{counts['no_difference']} with no difference that can be told",
    ]  # fmt: skip
    if counts["unknown"]:
        words.append(f"{counts['unknown']} with too few requests to tell")
    return tag("p", f"{sum(counts.values())} figures: {', '.join(words)}.", class_="lead")


def _scale(rows: Sequence[Row]) -> tuple[float, float]:
    """Around 1, wide enough for all ratios and most intervals: a few that reach far would make dots of the rest."""
    ratios = [row.ratio for row in rows if 0 < row.ratio < math.inf]
    ends = sorted(abs(math.log(each)) for row in rows for each in (row.low, row.high) if each)
    most = ends[int(0.9 * (len(ends) - 1))] if ends else 0.0
    reach = max(most, math.log(1.1), *(min(abs(math.log(each)), math.log(4)) for each in ratios)) * 1.1
    return math.exp(-reach), math.exp(reach)


def _whisker(row: Row, low: float, high: float) -> Markup:
    def at(number: float) -> float:
        share = math.log(min(max(number, low), high) / low) / math.log(high / low)
        return round(4 + share * (_WHISKER - 8), 1)

    parts = [tag("line", class_="one", x1=at(1), x2=at(1), y1=0, y2=22)]
    if row.low is not None or row.high is not None:
        ends = at(row.low or low), at(row.high or high)
        parts.append(tag("line", class_="reach", x1=ends[0], x2=ends[1], y1=11, y2=11))
        for number, end in ((row.low, ends[0]), (row.high, ends[1])):
            if number is not None:
                parts.append(tag("line", class_="reach", x1=end, x2=end, y1=7, y2=15))
    if 0 < row.ratio < math.inf:
        parts.append(tag("circle", class_="dot", cx=at(row.ratio), cy=11, r=4.5))
    return tag(
        "svg", *parts, viewBox=f"0 0 {_WHISKER} 22", width=_WHISKER, height=22, class_=row.verdict, aria_hidden="true"
    )


def runs_table(found: Sequence[Entry]) -> Markup:
    """Every run with every figure."""
    runs = [run for each in found for run in each.result.runs]
    figures = [each for each in (TTFT, TPOT, ITL, E2E, SPEED) if any(each.of(run) for run in runs)]
    with_goodput = any(run.goodput for run in runs)
    with_cancelled = any(run.cancelled for run in runs)
    columns = [
        "completed",
        "failed",
        *(["cancelled"] if with_cancelled else []),
        "tokens/s",
        "requests/s",
        *(["goodput/s"] if with_goodput else []),
    ]
    top = tag(
        "tr", tag("th", "run", scope="col", rowspan=2), *(tag("th", each, scope="col", rowspan=2) for each in columns),
        *(tag("th", each.short, scope="colgroup", colspan=4, class_="over") for each in figures),
    )  # fmt: skip
    under = tag("tr", *(tag("th", point, scope="col") for _ in figures for point in POINTS))
    bodies = []
    for each in found:
        lines = (
            [tag("tr", tag("th", each.label, colspan=30, scope="rowgroup"), class_="group")] if len(found) > 1 else []
        )
        lines += [_run_row(run, figures, goodput=with_goodput, cancelled=with_cancelled) for run in each.result.runs]
        bodies.append(tag("tbody", *lines))
    table = tag("table", tag("thead", top, under), *bodies)
    return tag(
        "section", tag("h2", "All figures"), tag("div", table, class_="scroll sticky", tabindex=0)
    )  # fmt: skip


def _run_row(run: Run, figures: Sequence[object], *, goodput: bool, cancelled: bool) -> Markup:
    cells = [f"{run.completed} of {run.requests}", str(run.failed)]
    if cancelled:
        cells.append(str(run.cancelled))
    cells += [units.rate(run.output_throughput), units.rate(run.request_throughput)]
    if goodput:
        cells.append("-" if run.goodput is None else units.rate(run.goodput.requests_per_second))
    for figure in LATENCIES:
        if figure in figures:
            statistics = figure.of(run)
            cells += [
                "-" if statistics is None else figure.text(getattr(statistics, point)) for point in POINTS
            ]  # fmt: skip
    name = run.name + (" (stopped before its end)" if run.partial else "")
    return tag("tr", tag("th", name, scope="row"), *(tag("td", cell) for cell in cells))


def failures(found: Sequence[Entry]) -> Markup:
    """What became of the requests of each run; a sentence where all went well."""
    runs = [(each, run) for each in found for run in each.result.runs]
    total, failed = sum(run.requests for _, run in runs), sum(run.failed for _, run in runs)
    if not failed:
        words = f"None of {counted(total, 'request')} failed."
        return tag("section", tag("h2", "Errors"), tag("p", words, class_="lead"))
    lines = []
    for each, run in runs:
        name = f"{each.label}, {run.name}" if len(found) > 1 else run.name
        codes = ", ".join(f"{count} {code}" for code, count in run.errors.items())
        words = f"{run.failed} of {run.requests} failed" + (f": {codes}" if codes else "")
        lines.append(tag("tr", tag("th", name, scope="row"), tag("td", _bar(run)), tag("td", words, class_="words")))
    examples: dict[str, str] = {}
    for _, run in runs:
        for code, example in run.error_examples.items():
            examples.setdefault(code, example)
    parts = [
        tag("h2", "Errors"),
        tag("p", f"{failed} of {counted(total, 'request')} failed. Their latencies count nowhere.", class_="lead"),
        tag("div", tag("table", tag("tbody", *lines)), class_="scroll", tabindex=0),
    ]
    if examples:
        shown = [item for code, example in examples.items() for item in (tag("dt", code), tag("dd", example))]
        parts.append(tag("dl", *shown, class_="facts"))
    return tag("section", *parts)


def _bar(run: Run) -> Markup:
    width, parts, start = 220, [], 0.0
    for kind, count in (("good", run.completed), ("bad", run.failed), ("cut", run.cancelled)):
        if count and run.requests:
            size = width * count / run.requests
            parts.append(tag("rect", class_=kind, x=f"{start:.1f}", y=3, width=f"{size:.1f}", height=14))
            start += size
    return tag("svg", *parts, viewBox=f"0 0 {width} 20", width=width, height=20, class_="bar", aria_hidden="true")


def circumstances(found: Sequence[Entry]) -> Markup:
    """What was measured, where, and the command that does it again."""
    cards = []
    for each in found:
        result = each.result
        facts = [item for name, said in _facts(result) if said for item in (tag("dt", name), tag("dd", said))]
        command = tag(
            "div", tag("pre", tag("code", result.command)), tag("button", "Copy", type="button", class_="copy"),
            class_="command",
        )  # fmt: skip
        title = [tag("h3", each.label)] if len(found) > 1 else []
        cards.append(tag("div", *title, tag("dl", *facts, class_="facts"), command, class_="card"))
    return tag(
        "section", tag("h2", "What was measured, and where"), tag("div", *cards, class_=f"cards n{min(3, len(cards))}")
    )


def _facts(result: Result) -> list[tuple[str, str]]:
    target, machine, workload = result.target, result.machine, result.workload
    sent = [
        f"prompts of {_numbers(workload.prompt_tokens)} tokens",
        f"responses of at most {_numbers(workload.max_tokens)}",
    ]
    if workload.shared_prefix:
        sent.append(f"the first {workload.shared_prefix} tokens the same in all")
    if workload.turns > 1:
        sent.append(f"conversations of {workload.turns} requests")
    if workload.cancel:
        sent.append(f"{units.percent(workload.cancel)} cancelled on purpose")
    if workload.ignore_eos:
        sent.append("end of sequence ignored")
    if workload.temperature is not None:
        sent.append(f"temperature {workload.temperature:g}")
    if workload.extra_body:
        sent.append(", ".join(f"{name} {value}" for name, value in workload.extra_body.items()))
    if workload.warmup:
        sent.append(f"{counted(workload.warmup, 'request')} before each run to warm up")
    memory = f", {readable(machine.memory)} of memory" if machine.memory else ""
    return [
        ("model", target.model or "the target's default"),
        ("engine", engine(result)),
        ("address", target.url or "in the process of `miner bench`"),
        ("route", target.endpoint),
        ("load", ", ".join(dict.fromkeys(run.name for run in result.runs))),
        ("sent", "; ".join(sent)),
        ("load came from", f"{machine.cpu or 'an unknown CPU'}, {counted(machine.cores, 'core')}{memory}"),
        ("GPUs there", ", ".join(machine.gpus)),
        ("system", f"{machine.os}, Python {machine.python}, miner {result.miner}"),
        ("measured", result.created),
    ]  # fmt: skip


def _numbers(values: Sequence[int]) -> str:
    return " and ".join(map(str, values))


def definitions(*, compared: bool) -> Markup:
    """The figures in plain words."""
    items = [(f"{each.short}: {each.words}", each.meaning) for each in LATENCIES]
    items += [
        ("tokens/s: output throughput", "The output tokens of all completed requests, divided by the run's duration."),
        ("goodput", "Requests per second that met the objective. A failed request did not."),
        ("p50, p90, p99", "So many percent of the requests took no longer: p50 is the median."),
        ("concurrency", "So many requests are in flight at any time; when one ends, the next is sent."),
        ("rate", "Requests are sent at random times, so many a second on average, however many are in flight."),
    ]
    if compared:
        items += [
            ("ratio", "The new figure divided by the base's: a latency below 1 is faster, a rate above 1."),
            ("95 % interval", "Where the true ratio is in 95 of 100 measurements. If 1 is within, chance may be all."),
        ]  # fmt: skip
    body = [item for name, meaning in items for item in (tag("dt", name), tag("dd", meaning))]
    return tag("section", tag("h2", "What the figures mean"), tag("dl", *body, class_="definitions"))
