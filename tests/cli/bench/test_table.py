"""The table of a measurement, at each width."""

import pytest

from miner.cli.bench.report import units
from miner.cli.bench.report.table import table
from miner.cli.output.style import Style
from tests.cli.bench.results import a_result, a_run

PLAIN = Style(None)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00 ms"), (0.0000012, "0.0012 ms"), (0.00008, "0.080 ms"), (0.00042, "0.420 ms"), (0.0123, "12.3 ms"),
     (0.1, "100 ms"),
     (0.9994, "999 ms"), (0.9996, "1.00 s"), (12.34, "12.3 s"), (1234.0, "1 234 s"), (None, "-")],
)  # fmt: skip
def test_times_have_milliseconds_below_one_second(value, text):
    assert units.seconds(value) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (1, "100 %"), (0.5, "50 %"), (0.9999, "99.9 %"), (0.004, "0.4 %")]
)
def test_what_is_not_all_is_not_a_hundred_percent(share, text):
    assert units.percent(share) == text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160, 200])
def test_no_line_is_wider_than_the_terminal_and_no_figure_is_lost(width):
    objective = {"ttft": 0.5}
    runs = [a_run(concurrency=each, objective=objective, failing=0.1, cancelling=0.1) for each in (1, 4, 16)]
    text = table(a_result(runs, objective=objective), PLAIN, width)
    lines = [line for line in text.splitlines() if "failed with" not in line]
    assert max(map(len, lines)) <= width
    for run in runs:
        for value in (run.ttft.p50, run.ttft.p99, run.tpot.p50, run.itl.p99, run.e2e.p50, run.e2e.p99):
            assert units.seconds(value) in text
        assert units.number(run.output_throughput) in text
    assert "failed" in text
    assert "goodput/s" in text


def test_one_run_shows_each_percentile():
    result = a_result([a_run(objective={"ttft": 0.5})])
    text = table(result, PLAIN, 80)
    for statistics in (result.runs[0].ttft, result.runs[0].itl, result.runs[0].e2e):
        for point in ("mean", "p50", "p90", "p99"):
            assert units.seconds(getattr(statistics, point)) in text
    assert "64 of 64 completed" in text
    assert "met the objective" in text


def test_failures_are_told_by_code_with_an_example():
    text = table(a_result([a_run(failing=0.5), a_run(concurrency=8)]), PLAIN, 100)
    assert "requests failed with overloaded: Example of overloaded" in text


def test_a_run_without_a_completed_request_says_so():
    text = table(a_result([a_run(failing=1.0)]), PLAIN, 80)
    assert "No request was completed" in text
    assert "0 of 64 completed, 64 failed" in text
    assert "Nothing was measured" in table(a_result([]), PLAIN, 80)
    assert " - " in table(a_result([a_run(failing=1.0), a_run()]), PLAIN, 200)


def test_notes_are_broken_between_words():
    text = table(a_result(notes=["a note of many words " * 5]), PLAIN, 40)
    assert max(map(len, text.splitlines())) <= 40
    assert "a note of many words a" in " ".join(text.split())


def test_hostile_names_reach_no_terminal():
    result = a_result([a_run(failing=1.0)], notes=["a\x1b[31mnote"])
    result.target.model = "evil\x1b]0;title\x07"
    result.runs[0].error_examples = dict.fromkeys(result.runs[0].errors, "bad\x1b[2J")
    assert "\x1b" not in table(result, PLAIN, 80)
