"""`miner bench --compare` of saved results, as a command."""

import json
from pathlib import Path

import pytest

from miner.cli.bench.result import to_json
from miner.cli.main import run
from tests.cli.bench.results import a_result, a_run


@pytest.fixture
def saved(tmp_path):
    def save(name, result):
        path = tmp_path / name
        path.write_bytes(to_json(result))
        return str(path)

    return save


@pytest.fixture
def two(saved):
    """A measurement, and one whose tokens take twice as long."""
    base, slow = a_result([a_run(requests=64)]), a_result([a_run(requests=64, step=0.024, seed=2)])
    return saved("a.json", base), saved("b.json", slow)


def test_two_saved_results_are_compared_and_nothing_is_measured(two, capsys):
    assert run(["bench", "--compare", *two]) == 0
    seen = capsys.readouterr()
    assert "concurrency 4" in seen.out
    assert "worse" in seen.out
    assert "a.json" in seen.out
    assert seen.err == ""


def test_a_saved_result_is_shown_again_without_measuring(two, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert run(["bench", "--show", two[0], "--html", str(page)]) == 0
    assert "concurrency 4" in capsys.readouterr().out
    assert "<svg" in page.read_text()
    assert run(["bench", "--show", two[0], "--json"]) == 0
    assert capsys.readouterr().out.encode() == Path(two[0]).read_bytes()


def test_the_json_is_one_object(two, capsys):
    assert run(["bench", "--compare", *two, "--json", "--fail-above", "10%"]) == 1
    value = json.loads(capsys.readouterr().out)
    row = next(each for each in value["comparisons"][0]["rows"] if each["figure"] == "tpot.p50")
    assert row["low"] < row["ratio"] < row["high"]
    assert row["verdict"] == "worse"
    assert value["fail_above"] == 0.1
    assert "tpot.p50" in {each.get("figure") for each in value["regressions"]}


def test_a_regression_is_an_exit_status_and_a_message(two, capsys):
    assert run(["bench", "--compare", *two, "--fail-above", "10%"]) == 1
    assert "Worse than --fail-above 10 % allows" in capsys.readouterr().err
    assert run(["bench", "--compare", *reversed(two), "--fail-above", "10"]) == 0


def test_three_are_compared_with_the_first(two, saved, capsys):
    assert run(["bench", "--compare", *two, saved("c.json", a_result([a_run(requests=64, seed=3)])), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["comparisons"]) == 2


def test_a_bound_does_not_judge_different_work(two, saved, capsys):
    other = saved("c.json", a_result([a_run(prompt_length=512)]))
    assert run(["bench", "--compare", two[0], other]) == 0
    assert "not alike: prompt tokens: 128 | 512" in capsys.readouterr().out
    assert run(["bench", "--compare", two[0], other, "--fail-above", "10%"]) == 2
    assert "different work: prompt_tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--show", "a.json", "--compare", "b.json"], "--show and --compare exclude each other."),
        (["--fail-above", "10%"], "needs a measurement to compare with"),
        (["--compare", "nowhere.json", "--fail-above", "ten"], "--fail-above ten: must be a percentage"),
        (["--compare", "nowhere.json", "other.json"], "nowhere.json cannot be read"),
    ],
)
def test_options_that_make_no_sense(arguments, message, capsys):
    assert run(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--concurrency", "2"], "has none of these loads, only concurrency 4"),
        (["--concurrency", "4", "--fail-above", "10%"], "lengths (prompts of 128 and responses of 64 tokens there)"),
        (["--concurrency", "4", "--prompt-tokens", "128", "--max-tokens", "64", "--turns", "3", "--fail-above", "1%"],
         "turns (1 there)"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_an_error_before_anything_is_measured(arguments, message, two, capsys):
    """The address leads nowhere: it is not tried."""
    assert run(["bench", "--url", "http://127.0.0.1:9", "-m", "x", "--compare", two[0], *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_secret_in_the_body_is_no_difference(saved, capsys):
    """The base has `***` in its place; the address leads nowhere."""
    base = a_result([a_run()])
    base.workload.extra_body = {"api_key": "sk-SECRET", "top_k": 1}
    arguments = ["--compare", saved("a.json", base), "--concurrency", "4", "--prompt-tokens", "128", "--max-tokens"]
    arguments += ["64", "--fail-above", "1%", "--url", "http://127.0.0.1:9", "-m", "x", "--extra-body"]
    assert run(["bench", *arguments, '{"api_key": "sk-OTHER", "top_k": 1}']) == 1
    assert "different work" not in capsys.readouterr().err
    assert run(["bench", *arguments, '{"api_key": "sk-OTHER", "top_k": 2}']) == 2
    seen = capsys.readouterr().err
    assert "extra_body ({'api_key': '***', 'top_k': 1} there)" in seen
    assert "sk-" not in seen


def test_a_file_that_is_no_result(tmp_path, two, capsys):
    (tmp_path / "other.json").write_text("{}")
    assert run(["bench", "--compare", two[0], str(tmp_path / "other.json")]) == 2
    assert "is not a result of `miner bench`" in capsys.readouterr().err
