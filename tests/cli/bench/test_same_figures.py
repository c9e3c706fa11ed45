"""The table, the page and the JSON of one result have the same figures."""

import json
import re
from html.parser import HTMLParser

import pytest

from miner.cli.bench.report import units
from miner.cli.bench.report.html.page import page
from miner.cli.bench.report.table import table
from miner.cli.bench.result import from_json, to_json
from miner.cli.output.style import Style
from tests.cli.bench.results import a_result, a_run

OBJECTIVE = {"ttft": 0.5}
LATENCIES = ("TTFT", "TPOT", "ITL", "E2E", "tokens/s per request")
FIELDS = dict(zip(LATENCIES, ("ttft", "tpot", "itl", "e2e", "tokens_per_second"), strict=True))
POINTS = ("mean", "p50", "p90", "p99")
CASES = [
    {}, {"failing": 0.3}, {"cancelling": 0.3}, {"failing": 1.0}, {"objective": OBJECTIVE}, {"requests": 1},
    {"step": 1e-5, "prompt": 1e-5}, {"step": 0.5, "max_tokens": 2000}, {"keep": False},
]  # fmt: skip


class Rows(HTMLParser):
    """The cells of all rows of the page's tables, and each text."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.texts, self._cell = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        self._cell = tag in ("td", "th")
        if self._cell:
            self.rows[-1].append("")

    def handle_data(self, data):
        self.texts.append(data)
        if self._cell and self.rows:
            self.rows[-1][-1] += data

    def of_runs(self):
        """Name of a run -> its row under "All figures", by the heading of each column."""
        start = next(number for number, row in enumerate(self.rows) if row[:2] == ["run", "completed"])
        head, under = self.rows[start : start + 2]
        once = [name for name in head if name not in LATENCIES]
        shown = [name for name in head if name in LATENCIES]
        assert under == list(POINTS) * len(shown)
        columns = [*once, *(f"{name} {point}" for name in shown for point in POINTS)]
        rows = self.rows[start + 2 :]
        return {row[0]: dict(zip(columns, row, strict=True)) for row in rows if len(row) == len(columns)}


def saved(settings):
    runs = [a_run(concurrency=each, **settings) for each in (1, 4, 16)]
    return to_json(a_result(runs, objective=settings.get("objective")))


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_the_page_and_the_table_agree_with_the_json(settings):
    raw = saved(settings)
    result, written = from_json(raw), json.loads(raw)
    found = Rows(page([result], ["a.json"]))
    lines = table(result, Style(None), 400).split("\n\n")[1].splitlines()
    columns = re.split(r"\s{2,}", lines[0].strip())
    shown = found.of_runs()
    assert list(shown) == [run["name"] for run in written["runs"]]
    for line, run in zip(lines[1:], written["runs"], strict=True):
        row = dict(zip(columns, re.split(r"\s{2,}", line.strip()), strict=True))
        there = shown[row.pop("run")]
        assert there["completed"] == f"{run['completed']} of {run['requests']}"
        assert row.pop("ok") == str(run["completed"])
        assert there["failed"] == row.pop("failed", "0") == str(run["failed"])
        assert there.get("cancelled", "0") == row.pop("cancelled", "0") == str(run["cancelled"])
        assert there["tokens/s"] == units.rate(run["output_throughput"])
        assert there["requests/s"] == units.rate(run["request_throughput"])
        for heading, cell in row.items():
            assert there[heading] == cell, heading
        for name, field in FIELDS.items():
            for point in POINTS:
                if f"{name} {point}" in there:
                    form = units.rate if field == "tokens_per_second" else units.seconds
                    assert there[f"{name} {point}"] == form((run[field] or {}).get(point))


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_what_the_page_says_beside_its_table_agrees(settings):
    """The tiles, and the words below plots."""
    result = from_json(saved(settings))
    done = [run for run in result.runs if run.completed]
    text = page([result], ["a.json"])
    texts = Rows(text).texts
    if done:
        best = max(done, key=lambda run: run.output_throughput)
        for name, value in (
            ("most tokens per second", units.rate(best.output_throughput)),
            ("lowest median TTFT", units.seconds(min(run.ttft.p50 for run in done))),
            ("median TTFT at most tokens/s", units.seconds(best.ttft.p50)),
            ("median tokens/s of one request", units.rate(best.tokens_per_second.p50)),
        ):
            assert texts[texts.index(name) + 1] == value
    averages = re.findall(r"(concurrency \d+): ([\d. ]+) on average", text)
    speeds = {run.name: units.rate(run.output_throughput) for run in result.runs}
    assert bool(averages) == bool(done)
    assert all(speeds[name] == value for name, value in averages)


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_the_table_of_one_run_agrees_with_the_json(settings):
    result = from_json(to_json(a_result([a_run(**settings)], objective=settings.get("objective"))))
    (run,) = result.runs
    text = table(result, Style(None), 200)
    for name, value in (
        ("duration", units.seconds(run.duration)), ("output tokens/s", units.rate(run.output_throughput)),
        ("total tokens/s", units.rate(run.total_throughput)), ("requests/s", units.rate(run.request_throughput)),
    ):  # fmt: skip
        assert re.search(rf"^{name} +{re.escape(value)}$", text, re.M)
    for name, field in FIELDS.items():
        statistics = getattr(run, field)
        if statistics is not None:
            form = units.rate if field == "tokens_per_second" else units.seconds
            cells = " +".join(re.escape(form(getattr(statistics, point))) for point in POINTS)
            assert re.search(rf"^{name} +{cells}$", text, re.M)
