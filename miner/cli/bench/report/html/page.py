"""The page as a whole."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from urllib.parse import urlsplit

from miner import __version__
from miner.cli.bench.report import units
from miner.cli.bench.report.compare import Comparison, compare
from miner.cli.bench.report.figures import engine
from miner.cli.bench.report.html import plots, tables
from miner.cli.bench.report.html.entries import Entry, entries
from miner.cli.bench.report.html.markup import Markup, tag
from miner.cli.bench.result import Result, Run
from miner.cli.parser import UsageError
from miner.core.counted import counted


def page(results: Sequence[Result], names: Sequence[str]) -> str:
    """A page of the results that loads nothing.

    Args:
        names: of the results, such as their files; the first is the base of comparisons.
    """
    found = entries(results, names)
    style, script = _resource("page.css"), _resource("page.js")
    heading = _heading(found)
    compared = _compared(found)
    body = [
        _top(found, heading),
        _notes(found),
        _tiles(found),
        *(
            tables.in_short(each, found[0].label, entry.label)
            for entry, each in compared
            if isinstance(each, Comparison)
        ),
        plots.tradeoff(found),
        plots.distributions(found),
        *_beside(plots.over_time(found), plots.goodput(found), beside=len(found) == 1),
        *_tables(found, compared),
        tables.failures(found),
        tables.runs_table(found),
        tables.circumstances(found),
        tables.definitions(compared=len(found) > 1),
        tag("footer", f"Made by miner {__version__}. This page loads nothing from the network."),
    ]
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = [
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        tag("title", f"miner bench: {heading}"),
        Markup(f"<style>{style}</style>"),
    ]
    return (
        "<!doctype html>\n"
        + tag(
            "html",
            tag("head", *head),
            tag(
                "body",
                tag("main", *body),
                tag("div", id="tip", role="status", hidden=""),
                Markup(f"<script>{script}</script>"),
            ),
            lang="en",
        )
        + "\n"
    )


def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    """The source expression of a Content-Security-Policy that allows this text alone."""
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"


def _heading(found: Sequence[Entry]) -> str:
    models = list(dict.fromkeys(each.result.target.model or "the default model" for each in found))
    engines = list(dict.fromkeys(engine(each.result) for each in found))
    labels = ", ".join(each.label for each in found[:-1]) + f" and {found[-1].label}"
    if len(found) == 1:
        return f"{models[0]} on {engines[0]}"
    if len(models) == 1 and len(engines) == 1:
        return f"{models[0]} on {engines[0]}: {labels}"
    if len(models) == 1:
        return f"{models[0]}: {labels}"
    return f"{labels} on {engines[0]}" if len(engines) == 1 else labels


def _top(found: Sequence[Entry], heading: str) -> Markup:
    first = found[0].result
    where = _engine_machine(first)
    requests = sum(run.requests for each in found for run in each.result.runs)
    created = first.created.replace("T", " ").replace("Z", " UTC")
    facts = [where, counted(requests, "request"), created]
    return tag(
        "header",
        tag("p", "miner bench", class_="kicker"),
        tag("h1", heading),
        tag("p", " · ".join(each for each in facts if each), class_="lead"),
        tag("button", "Light or dark", type="button", id="theme"),
    )


def _engine_machine(result: Result) -> str:
    """The processor of the engine; empty where it may run on another machine than this one."""
    address = result.target.url
    if address is not None and urlsplit(address).hostname not in ("localhost", "127.0.0.1", "::1"):
        return ""
    return result.machine.gpus[0] if result.machine.gpus else result.machine.cpu or ""


def _notes(found: Sequence[Entry]) -> Markup:
    lines = [
        tag("li", f"{each.label}: {note}" if len(found) > 1 else note) for each in found for note in each.result.notes
    ]
    if not lines:
        return Markup("")
    return tag("aside", tag("strong", "Read this first"), tag("ul", *lines), class_="note")


def _tiles(found: Sequence[Entry]) -> Markup:
    """The few figures that say most; of several results beside each other."""
    own = [_highlights(each) for each in found]
    names = dict.fromkeys(name for each in own for name in each)
    tiles = []
    for name in names:
        lines = []
        for number, (entry, each) in enumerate(zip(found, own, strict=True), 1):
            value, where = each.get(name, ("-", ""))
            alone = len(found) == 1
            label = [] if alone else [tag("span", entry.label, class_="whose")]
            colour = None if alone else f"s{min(number, 6)}"
            lines.append(tag("div", *label, tag("strong", value), tag("span", where), class_=colour))
        tiles.append(tag("div", tag("span", name, class_="what"), *lines, class_="tile"))
    return tag("div", *tiles, class_="tiles" if len(found) == 1 else "tiles several")


def _highlights(entry: Entry) -> dict[str, tuple[str, str]]:
    """Name -> value, and where it was reached."""
    runs = entry.result.runs
    loads = [load for load in entry.loads if load.first.completed]
    tiles = {}
    if loads:
        best = max(loads, key=lambda load: load.mean(_throughput) or 0.0)
        tiles["most tokens per second"] = (units.rate(best.mean(_throughput)), f"at {best.name}")
        firsts = {load.name: value for load in loads if (value := load.mean(_first)) is not None}
        if firsts:
            least = min(firsts, key=lambda name: firsts[name])
            tiles["lowest median TTFT"] = (units.seconds(firsts[least]), f"at {least}")
            tiles["median TTFT at most tokens/s"] = (units.seconds(firsts.get(best.name)), f"at {best.name}")
        tiles["median tokens/s of one request"] = (units.rate(best.mean(_speed)), f"at {best.name}")
    failed, total = sum(run.failed for run in runs), sum(run.requests for run in runs)
    tiles["requests that failed"] = (str(failed), f"of {total}")
    return tiles


def _throughput(run: Run) -> float | None:
    return run.output_throughput


def _first(run: Run) -> float | None:
    return None if run.ttft is None else run.ttft.p50


def _speed(run: Run) -> float | None:
    return None if run.tokens_per_second is None else run.tokens_per_second.p50


def _beside(one: Markup, other: Markup, *, beside: bool) -> list[Markup]:
    """Two sections side by side where both have one chart."""
    return [tag("div", one, other, class_="pair")] if beside and one and other else [one, other]


def _compared(found: Sequence[Entry]) -> list[tuple[Entry, Comparison | str]]:
    """Each further result compared with the first, or why that is not possible."""
    base, *others = found
    compared: list[tuple[Entry, Comparison | str]] = []
    for each in others:
        try:
            compared.append((each, compare(base.result, each.result, names=(base.label, each.label))))
        except UsageError as error:
            compared.append((each, error.message))
    return compared


def _tables(found: Sequence[Entry], compared: Sequence[tuple[Entry, Comparison | str]]) -> list[Markup]:
    return [
        tag("p", each, class_="note")
        if isinstance(each, str)
        else tables.comparison_table(each, found[0].label, entry.label)
        for entry, each in compared
    ]
