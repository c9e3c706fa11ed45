"""Which plots a page has, and from which figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from miner.cli.bench.report import units
from miner.cli.bench.report.figures import E2E, ITL, TPOT, TTFT, Latency
from miner.cli.bench.report.html.axis import named_axis, plain_axis, share_axis, time_axis
from miner.cli.bench.report.html.chart import Chart, Point, Series, figure, legend
from miner.cli.bench.report.html.entries import Entry, Load, common
from miner.cli.bench.report.html.markup import Markup, joined, tag
from miner.cli.bench.result import Run
from miner.cli.bench.statistics import percentile

T = TypeVar("T")

_MOST = 6
"""Lines that one chart can hold apart."""
_ROWS = 3
"""Loads at which several results are put side by side."""
_WINDOWS = 30
"""Of a run, in each of which its tokens are counted."""
_CURVE = 41
"""Points of a distribution's line."""


def tradeoff(found: Sequence[Entry]) -> Markup:
    """Throughput against latency, along the loads; nothing where there is but one load."""
    if max(len(each.loads) for each in found) < 2:
        return Markup("")
    charts: list[Chart] = []
    shown: list[Series] = []
    for latency in (TTFT, TPOT, E2E):
        series = [
            line
            for number, each in enumerate(found[:_MOST])
            for line in _curves(each, latency, number, alone=len(found) == 1)
        ]
        series = [each for each in series if each.points]
        if not series:
            continue
        shown = series
        points = [point for each in series for point in each.points]
        charts.append(
            Chart(
                title=f"Throughput and {latency.words}",
                caption=_tradeoff_words(found, latency, ends=True),
                summary=_tradeoff_words(found, latency, ends=False),
                x=plain_axis("output tokens per second", [point.x for point in points]),
                y=time_axis(latency.short, [point.y for point in points]),
                series=series,
                limit=_objective(found, latency),
            )
        )
    lead = (
        "Each point is a load; its number is the concurrency or the requests per second. Further down and to the right "
        "is better."
    )
    if any(len(load.runs) > 1 for each in found for load in each.loads):
        lead += " Small dots are the rounds, of which a point is the mean."
    return _section("Throughput against latency", lead, charts, shown)


def _curves(entry: Entry, latency: Latency, number: int, *, alone: bool) -> list[Series]:
    """p50 and p99 of a result; with rounds, each of them beside the mean."""
    lines = []
    for place, point in enumerate(("p50", "p99")):
        points, single = [], []
        for load in _sorted(entry.loads):
            value, rate = load.mean(_of(latency, point)), load.mean(_throughput)
            if value is None or rate is None or not load.first.completed:
                continue
            tip = f"{load.name}: {units.rate(rate)} tokens/s, {latency.short} {point} {units.seconds(value)}"
            points.append(Point(rate, value, tip, _short(load) if point == "p50" else ""))
            if len(load.runs) > 1:
                single += [
                    Point(run.output_throughput, each, "")
                    for run in load.runs
                    if (each := _of(latency, point)(run)) is not None
                ]
        name = point if alone else f"{entry.label}, {point}"
        colour = f"s{(place if alone else number) % _MOST + 1}"
        lines.append(Series(name, points, colour, shape=place if alone else number, dash=place, hollow=place == 1))
        if single:
            lines.append(Series(name, single, colour, line=False, faint=True))
    return lines


def distributions(found: Sequence[Entry]) -> Markup:
    """How the latencies of the requests are distributed: per load, or, of several results, at the loads they share."""
    if len(found) == 1:
        loads = _picked(_sorted(found[0].loads))
        lines = [(load.name, load) for load in loads]
        return _distribution("Latencies of the requests", lines, ordered=True)
    parts = []
    for name in _picked(common(found), _ROWS):
        lines = [(each.label, next(load for load in each.loads if load.name == name)) for each in found[:_MOST]]
        parts.append(_distribution(f"Latencies at {name}", lines, ordered=False))
    return joined(parts)


def _distribution(title: str, lines: Sequence[tuple[str, Load]], *, ordered: bool) -> Markup:
    charts: list[Chart] = []
    shown: list[Series] = []
    for latency in (TTFT, TPOT, ITL, E2E):
        series = []
        for number, (name, load) in enumerate(lines):
            curve = _curve(latency, load.runs)
            if curve:
                colour = f"r{_spread(number, len(lines))}" if ordered else f"s{number + 1}"
                series.append(Series(name, curve, colour, shape=number, dash=number, markers=latency is ITL))
        if not series:
            continue
        shown = max(shown, series, key=len)
        values = [point.x for each in series for point in each.points]
        # The last percent would stretch the axis beyond all that can be read.
        charts.append(
            Chart(
                title=f"{latency.words[:1].upper()}{latency.words[1:]} ({latency.short})",
                caption=_distribution_words(latency, [*lines[:1], *lines[1:][-1:]] if ordered else lines),
                summary=_distribution_words(latency, lines),
                x=time_axis(latency.short, values),
                y=share_axis("requests that took no longer" if latency is not ITL else "gaps that took no longer"),
                series=series,
                hover="near",
            )
        )
    lead = "The further left a line, the faster; the steeper, the more even. Read across at 50 % for the median."
    return _section(title, lead, charts, shown)


def _curve(latency: Latency, runs: Sequence[Run]) -> list[Point]:
    """The cumulative distribution of all rounds; of gaps, only the percentiles are known."""
    values = sorted(latency.samples(runs))
    if len(values) > 1:
        count = min(_CURVE, len(values))
        shares = [number / (count - 1) for number in range(count)]
        pairs = [(percentile(values, 100 * share), share) for share in shares]
    else:
        statistics = [each for run in runs if (each := latency.of(run)) is not None]
        if not statistics:
            return []
        # Not the minimum: often two tokens come at once, and a line from 0 would look as if many gaps were short.
        known = (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99))
        pairs = [(sum(getattr(each, name) for each in statistics) / len(statistics), share) for name, share in known]
    return [Point(value, share, f"{100 * share:.0f} % within {units.seconds(value)}") for value, share in pairs]


def over_time(found: Sequence[Entry]) -> Markup:
    """Tokens per second over the time of the runs."""
    charts: list[Chart] = []
    shown: list[Series] = []
    if len(found) == 1:
        loads = _picked(_sorted(found[0].loads))
        shown = [
            Series(load.name, _timeline(load.first), f"r{_spread(number, len(loads))}", dash=number, markers=False,
                   stepped=True)
            for number, load in enumerate(loads)
        ]  # fmt: skip
        charts = [_time_chart("Output tokens per second", shown, [load.first for load in loads])]
    else:
        for name in _picked(common(found), _ROWS):
            runs = [next(load for load in each.loads if load.name == name).first for each in found[:_MOST]]
            shown = [
                Series(each.label, _timeline(run), f"s{number + 1}", dash=number, markers=False, stepped=True)
                for number, (each, run) in enumerate(zip(found, runs, strict=False))
            ]
            charts.append(_time_chart(f"At {name}", shown, runs))
    lead = (
        "A flat line is a steady server, a sawtooth one that works in batches; at the end the last requests run alone."
    )
    return _section(
        "Tokens per second over time",
        lead,
        [each for each in charts if any(line.points for line in each.series)],
        shown,
    )


def _time_chart(title: str, series: list[Series], runs: Sequence[Run]) -> Chart:
    points = [point for each in series for point in each.points]
    words = "; ".join(
        f"{each.name}: {units.rate(run.output_throughput)} on average"
        for each, run in zip(series, runs, strict=True)
        if each.points
    )
    return Chart(
        title=title,
        caption=words if len(series) < 3 else "",
        summary=words,
        x=plain_axis("seconds since the start of the run", [point.x for point in points]),
        y=plain_axis("tokens/s", [point.y for point in points]),
        series=series,
        hover="x",
    )


def _timeline(run: Run) -> list[Point]:
    """Tokens per second over windows of equal length: shorter ones would show each batch, and hide how steady it is."""
    width = run.duration / _WINDOWS
    ends = [*(each.time for each in run.timeline[1:]), run.duration]
    points: list[Point] = []
    start, tokens, running = 0.0, 0, 0
    for each, end in zip(run.timeline, ends, strict=False):
        tokens, running = tokens + each.output_tokens, max(running, each.running)
        if end - start >= width * 0.999:
            rate = tokens / (end - start) if end > start else 0.0
            tip = (
                f"{units.rate(rate)} tokens/s from {units.seconds(start)} to {units.seconds(end)}, {running} in flight"
            )
            points.append(Point(start, rate, tip))
            start, tokens, running = end, 0, 0
    if not any(point.y for point in points):
        return []
    return [*points, Point(start, points[-1].y, points[-1].tip)]


def goodput(found: Sequence[Entry]) -> Markup:
    """Requests per second that met the objective, beside all that were completed."""
    judged = [each for each in found[:_MOST] if any(load.first.goodput for load in each.loads)]
    names = list(dict.fromkeys(load.name for each in judged for load in _sorted(each.loads)))
    if not judged or not names:
        return Markup("")
    series = []
    for number, each in enumerate(judged):
        for place, (word, value) in enumerate((("met the objective", _good), ("completed", _completed))):
            points = [
                Point(
                    names.index(load.name),
                    rate,
                    f"{load.name}: {units.rate(rate)} requests/s {word}{_good_share(load, word)}",
                )
                for load in _sorted(each.loads)
                if (rate := load.mean(value)) is not None
            ]
            name = word if len(judged) == 1 else f"{each.label}, {word}"
            series.append(
                Series(
                    name,
                    points,
                    f"s{(number if len(judged) > 1 else place) + 1}",
                    shape=number if len(judged) > 1 else place,
                    dash=place,
                    hollow=place == 1,
                )
            )
    objective = judged[0].result.objective or {}
    limits = ", ".join(f"{name.upper()} of at most {units.seconds(most)}" for name, most in objective.items())
    words = "; ".join(f"{each.label if len(judged) > 1 else 'Best'}: {_best_good(each)}" for each in judged)
    chart = Chart(
        title="Requests that met the objective",
        caption=words,
        summary=words,
        x=named_axis("load", [_short_name(name) for name in names]),
        y=plain_axis("requests/s", [point.y for line in series for point in line.points]),
        series=series,
    )
    return _section(
        "Goodput",
        f"The objective: {limits}. Where the lines part, requests are served, but too slowly.",
        [chart],
        series,
    )


def _section(title: str, lead: str, charts: Sequence[Chart], shown: Sequence[Series]) -> Markup:
    if not charts:
        return Markup("")
    parts = [tag("h2", title), tag("p", lead, class_="lead")]
    if len({each.name for each in shown if not each.faint}) > 1:
        parts.append(legend(shown))
    parts.append(tag("div", *map(figure, charts), class_=f"charts n{min(len(charts), 4)}"))
    return tag("section", *parts)


def _objective(found: Sequence[Entry], latency: Latency) -> tuple[float, str] | None:
    limits = {(each.result.objective or {}).get(latency.name) for each in found}
    limit = limits.pop() if len(limits) == 1 else None
    return None if limit is None else (limit, f"objective {units.seconds(limit)}")


def _tradeoff_words(found: Sequence[Entry], latency: Latency, *, ends: bool) -> str:
    said = []
    for each in found:
        shown = [load for load in _sorted(each.loads) if load.mean(_of(latency, "p50")) is not None]
        if ends and shown:
            best = max(shown, key=lambda load: load.mean(_throughput) or 0.0)
            shown = [best] if len(found) > 1 or best is shown[0] else [shown[0], best]
        words = ", ".join(
            f"{units.seconds(load.mean(_of(latency, 'p50')))} at {units.rate(load.mean(_throughput))} tokens/s "
            f"({load.name})"
            for load in shown
        )
        if words:
            said.append(f"{each.label}: median {words}" if len(found) > 1 else f"Median {words}")
    return "; ".join(said)


def _distribution_words(latency: Latency, lines: Sequence[tuple[str, Load]]) -> str:
    said = []
    for name, load in lines:
        middle, late = load.mean(_of(latency, "p50")), load.mean(_of(latency, "p99"))
        if middle is not None:
            said.append(f"{name}: median {units.seconds(middle)}, p99 {units.seconds(late)}")
    return "; ".join(said)


def _of(latency: Latency, point: str) -> Callable[[Run], float | None]:
    def value(run: Run) -> float | None:
        found = latency.of(run)
        return None if found is None else getattr(found, point)

    return value


def _good(run: Run) -> float | None:
    return None if run.goodput is None else run.goodput.requests_per_second


def _throughput(run: Run) -> float | None:
    return run.output_throughput


def _completed(run: Run) -> float | None:
    return run.request_throughput


def _good_share(load: Load, word: str) -> str:
    share = load.mean(lambda run: None if run.goodput is None else run.goodput.share)
    return f" ({units.percent(share)})" if share is not None and word != "completed" else ""


def _best_good(entry: Entry) -> str:
    rates = {load.name: rate for load in entry.loads if (rate := load.mean(_good)) is not None}
    best = max(rates, key=lambda name: rates[name])
    return f"{units.rate(rates[best])} requests/s met the objective at {best}"


def _sorted(loads: Sequence[Load]) -> list[Load]:
    return sorted(loads, key=lambda load: (load.key[2:], load.key[0] or 0, load.key[1] or 0.0))


def _picked(values: Sequence[T], most: int = _MOST) -> list[T]:
    """At most so many, the first and last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(number * (len(values) - 1) / (most - 1))] for number in range(most)]


def _spread(number: int, count: int) -> int:
    """Which of six colours in order the `number`th of `count` has."""
    return 1 + round(number * (_MOST - 1) / max(1, count - 1)) if count > 1 else 4


def _short(load: Load) -> str:
    if load.first.concurrency is not None:
        return str(load.first.concurrency)
    return f"{load.first.request_rate:g}/s" if load.first.request_rate is not None else load.name


def _short_name(name: str) -> str:
    return name.replace("concurrency ", "").replace("rate ", "").replace(", prompt ", ": ").replace(", output ", "→")
