"""Two measurements compared, where it is known what changed."""

import pytest

from miner.cli.bench.report.compare import compare
from miner.cli.bench.report.comparison_text import above_text, comparison_text
from miner.cli.output.style import Style
from miner.cli.parser import UsageError
from tests.cli.bench.results import a_result, a_run


def rows(comparison):
    return {(row.run, row.figure): row for row in comparison.rows}


def test_an_engine_that_is_a_fifth_slower_is_worse_in_what_it_is_slower_in():
    base = a_result([a_run(requests=400)])
    new = a_result([a_run(requests=400, step=0.012 * 1.2, seed=2)])
    found = rows(compare(base, new))
    tpot = found["concurrency 4", "tpot.p50"]
    assert tpot.verdict == "worse"
    assert tpot.ratio == pytest.approx(1.2, rel=0.05)
    assert tpot.low <= 1.2 <= tpot.high
    assert tpot.spread == "requests"
    rate = found["concurrency 4", "output_throughput"]
    assert (rate.verdict, rate.better) == ("worse", "higher")
    assert rate.low <= rate.ratio <= rate.high < 1
    assert found["concurrency 4", "ttft.p50"].verdict == "no_difference"
    assert found["concurrency 4", "e2e.p99"].verdict in ("worse", "no_difference")
    back = rows(compare(new, base))
    assert back["concurrency 4", "tpot.p50"].verdict == "better"


def test_the_same_engine_measured_again_seldom_differs():
    """Also where requests wait for one another: 16 at once for 8 slots."""
    told = total = 0
    for seed in range(0, 24, 2):
        base, new = (a_result([a_run(concurrency=16, requests=80, seed=each)]) for each in (seed, seed + 1))
        compared = compare(base, new)
        told += sum(row.verdict in ("better", "worse") for row in compared.rows)
        total += len(compared.rows)
        assert compared.above(0.2) == []
    assert told <= 0.08 * total


def test_rounds_of_one_load_are_one_row_with_the_spread_between_them():
    base = a_result([a_run(round=each) for each in (1, 2, 3)])
    new = a_result([a_run(round=each, step=0.018, seed=2) for each in (1, 2, 3)])
    compared = compare(base, new)
    found = rows(compared)
    assert {row.spread for row in compared.rows} == {"rounds"}
    assert found["concurrency 4", "tpot.p50"].verdict == "worse"
    assert found["concurrency 4", "itl.p99"].verdict == "worse", "which no request tells"
    assert not any("--rounds" in note for note in compared.notes)


def test_a_single_round_says_what_its_interval_does_not_know():
    compared = compare(a_result(), a_result())
    assert any("--rounds" in note for note in compared.notes)
    assert rows(compared)["concurrency 4", "itl.p50"].verdict == "unknown"


def test_an_open_loop_of_one_round_has_no_interval_of_its_rates():
    base, new = (a_result([a_run(concurrency=None, request_rate=2.0, seed=each)]) for each in (1, 2))
    found = rows(compare(base, new))
    assert found["rate 2/s", "output_throughput"].verdict == "unknown"
    assert found["rate 2/s", "tpot.p50"].verdict == "no_difference"


def test_what_is_not_alike_is_named():
    base, new = a_result(), a_result([a_run(prompt_length=512)], engine="vllm 0.32.0")
    new.target.model = "another"
    new.machine.cores = 4
    compared = compare(base, new)
    assert {each.what: each.workload for each in compared.differences} == {
        "engine": False, "model": False, "cores": False, "prompt_tokens": True
    }  # fmt: skip
    assert not compared.alike
    text = comparison_text(compared, Style(None))
    assert "not alike: prompt tokens: 128 | 512" in text
    assert "differs: model: smollm2-135m-instruct | another" in text
    assert "did not do the same work" in text


def test_lengths_that_both_have_are_compared_and_others_named():
    base = a_result([a_run(prompt_length=each) for each in (128, 512)])
    compared = compare(base, a_result([a_run(prompt_length=128)]))
    assert compared.alike
    assert compared.base_only == ["concurrency 4, 512 to 64 tokens"]


def test_an_objective_changes_the_work_only_where_both_have_one():
    one, other, none = (
        a_result([a_run(objective=each)], objective=each) for each in ({"ttft": 0.5}, {"ttft": 0.2}, None)
    )
    assert not compare(one, other).alike
    assert compare(one, none).alike
    assert compare(one, none).differences[0].what == "objective"


def test_loads_that_only_one_has_are_named_and_none_in_common_is_an_error():
    one, two = a_result([a_run(concurrency=1), a_run(concurrency=4)]), a_result([a_run(concurrency=4)])
    compared = compare(one, two)
    assert (compared.base_only, compared.new_only) == (["concurrency 1"], [])
    with pytest.raises(UsageError, match=r"concurrency 1; concurrency 4"):
        compare(a_result([a_run(concurrency=1)]), two, names=("a.json", "b.json"))
    with pytest.raises(UsageError, match="none"):
        compare(a_result([]), two)


def test_a_bound_fails_what_is_worse_beyond_it_and_beyond_chance():
    base = a_result([a_run(requests=400)])
    slower = compare(base, a_result([a_run(requests=400, step=0.0144, seed=2)]))
    assert {each.figure for each in slower.above(0.1)} >= {"tpot.p50"}
    assert slower.above(0.3) == []
    assert "TPOT p50 is" in above_text(slower.above(0.1), 0.1)
    faster = compare(base, a_result([a_run(requests=400, step=0.008, seed=2)]))
    assert faster.above(0.0) == []
    few = compare(a_result([a_run(requests=3)]), a_result([a_run(requests=3, step=0.013, seed=2)]))
    assert few.above(0.0) == []


def test_more_failed_requests_are_worse_whatever_the_bound():
    failing = compare(a_result([a_run()]), a_result([a_run(failing=0.3)]))
    assert [each.verdict for each in failing.failures] == ["worse"]
    assert "failed: 0 of 64" in above_text(failing.above(9.0), 9.0)
    assert compare(a_result([a_run(failing=0.3)]), a_result([a_run()])).above(0.0) == []


def test_a_run_in_which_all_failed_is_worse_and_has_no_latency():
    compared = compare(a_result([a_run()]), a_result([a_run(failing=1.0)]))
    assert {row.figure for row in compared.rows} == {"output_throughput", "request_throughput"}
    assert compared.above(0.1)
    comparison_text(compared, Style(None), 80)


def test_results_without_samples_are_compared_without_an_interval():
    compared = compare(a_result([a_run(keep=False)]), a_result([a_run(keep=False)]))
    assert {row.verdict for row in compared.rows} == {"unknown"}


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_the_text_fits_the_terminal(width):
    text = comparison_text(compare(a_result(), a_result(engine="vllm 0.32.0")), Style(None), width)
    table = [line for line in text.splitlines() if line.startswith(("TTFT", "TPOT", "verdict", "tokens/s", "ratio"))]
    assert table
    assert max(map(len, table)) <= width
    assert "TTFT p50" in text
