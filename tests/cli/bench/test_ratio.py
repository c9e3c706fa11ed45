"""The statistics of a comparison, against distributions whose ratios are known."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.cli.bench.report.ratio import (
    chance,
    independent,
    mean_ratio,
    quantile_ratio,
    rounds_ratio,
    share_ratio,
    student,
)

times = st.lists(st.floats(0.001, 1000), min_size=2, max_size=60)


def lognormal(rng, count, middle=1.0, sigma=0.5):
    return [middle * rng.lognormvariate(0, sigma) for _ in range(count)]


def covered(ratio, true):
    return (ratio.low or 0) <= true <= (math.inf if ratio.high is None else ratio.high)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("count", [10, 50, 400])
def test_an_interval_of_a_percentile_holds_the_true_ratio(share, count):
    rng = random.Random(f"{share} {count}")
    found = [quantile_ratio(lognormal(rng, count), lognormal(rng, count, 1.3), share) for _ in range(100)]
    assert sum(covered(each, 1.3) for each in found) >= 92


def test_an_interval_of_a_percentile_is_narrow_enough_to_see_a_difference():
    rng = random.Random(1)
    found = [quantile_ratio(lognormal(rng, 400), lognormal(rng, 400, 1.3), 0.5) for _ in range(30)]
    assert sum(each.differs for each in found) >= 28


def test_few_requests_have_a_p99_without_an_end():
    rng = random.Random(1)
    found = quantile_ratio(lognormal(rng, 64), lognormal(rng, 64), 0.99)
    assert (found.low, found.high, found.differs) == (None, None, False)
    few, many = lognormal(rng, 64), lognormal(rng, 2000, 9.0)
    assert quantile_ratio(few, many, 0.99).low is None, "the base may have a p99 beyond all that was seen"
    assert (quantile_ratio(many, few, 0.99).high) is None


@pytest.mark.parametrize("count", [3, 10, 100])
def test_an_interval_of_a_mean_holds_the_true_ratio(count):
    rng = random.Random(count)
    found = [mean_ratio(lognormal(rng, count), lognormal(rng, count, 1.3)) for _ in range(300)]
    assert sum(covered(each, 1.3) for each in found) >= 270


@pytest.mark.parametrize("count", [2, 3, 5])
def test_an_interval_between_rounds_holds_the_true_ratio(count):
    rng = random.Random(count)
    found = [rounds_ratio(lognormal(rng, count, 1, 0.03), lognormal(rng, count, 1.1, 0.05)) for _ in range(300)]
    assert sum(covered(each, 1.1) for each in found) >= 276


def test_rounds_that_spread_do_not_differ_although_their_requests_agree():
    """A machine that was slower in one round than in another."""
    rng = random.Random(2)
    base = [lognormal(rng, 200, middle, 0.02) for middle in (1.0, 1.2, 0.9)]
    new = [lognormal(rng, 200, middle, 0.02) for middle in (1.1, 0.95, 1.25)]
    assert not rounds_ratio(*([sum(each) / 200 for each in rounds] for rounds in (base, new))).differs


def test_requests_that_wait_for_one_another_count_for_fewer():
    rng = random.Random(4)

    def waiting(middle):
        level, values = 0.0, []
        for _ in range(200):
            level = 0.6 * level + rng.gauss(0, 0.2)
            values.append(middle * math.exp(level))
        return values

    assert independent(lognormal(rng, 200)) > 150
    assert independent(waiting(1.0)) < 100
    for make in (mean_ratio, lambda base, new: quantile_ratio(base, new, 0.5)):
        found = [make(waiting(1.0), waiting(1.3)) for _ in range(100)]
        assert sum(covered(each, 1.3) for each in found) >= 88


def test_an_interval_of_a_rate_holds_the_true_ratio():
    rng = random.Random(3)

    def requests(speed):
        return [((tokens := rng.randint(20, 60)), tokens / speed * rng.lognormvariate(0, 0.2)) for _ in range(60)]

    found = []
    for _ in range(200):
        base, new = requests(100), requests(120)
        rates = [sum(tokens for tokens, _ in each) / sum(took for _, took in each) for each in (base, new)]
        found.append(share_ratio(base, new, rates[1] / rates[0]))
    assert sum(covered(each, 1.2) for each in found) >= 180
    assert sum(each.differs for each in found) >= 190


@given(times, times, st.sampled_from([0.5, 0.9, 0.99]))
def test_an_interval_is_around_the_ratio_and_turns_over_with_it(base, new, share):
    for ratio in (quantile_ratio(base, new, share), mean_ratio(base, new), rounds_ratio(base, new)):
        assert 0 < ratio.value < math.inf
        assert ratio.low is None or ratio.low <= ratio.value * (1 + 1e-9)
        assert ratio.high is None or ratio.high >= ratio.value * (1 - 1e-9)
    there, back = mean_ratio(base, new), mean_ratio(new, base)
    assert there.differs == back.differs
    assert there.value == pytest.approx(1 / back.value)


@given(times, st.sampled_from([0.5, 0.9, 0.99]), st.floats(0.01, 100))
def test_a_sample_does_not_differ_from_itself_and_scales(values, share, factor):
    same = quantile_ratio(values, values, share)
    assert same.value == 1
    assert not same.differs
    scaled = quantile_ratio(values, [factor * each for each in values], share)
    assert scaled.value == pytest.approx(factor)


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0], [1.0], [0.0, 1.0], [1e-100, 1e100]])
def test_values_without_a_spread_have_no_interval_that_tells(values):
    for make in (mean_ratio, rounds_ratio, lambda one, other: quantile_ratio(one, other, 0.5)):
        assert not make(values, values).differs


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (1e6, 1.960)]
)
def test_students_t(freedom, expected):
    assert student(freedom) == pytest.approx(expected, rel=2e-3)


def test_fishers_exact_test():
    # Fisher's tea: 3 of 4 guessed right in both rows has p = 0.4857; the extreme table 1/70 twice.
    assert chance(1, 4, 3, 4) == pytest.approx(0.4857, abs=1e-4)
    assert chance(0, 4, 4, 4) == pytest.approx(2 / 70)
    assert chance(0, 64, 0, 64) == 1
    assert chance(0, 5000, 40, 5000) < 1e-9
