"""Ticks of the page's charts."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.cli.bench.report.html.axis import named_axis, plain_axis, share_axis, time_axis

values = st.lists(st.floats(1e-6, 1e7), min_size=1, max_size=20)


@given(values)
def test_every_value_is_on_the_axis_and_each_tick_says_what_it_is(given_values):
    for axis in (plain_axis("x", given_values), time_axis("x", given_values)):
        assert all(-1e-9 <= axis.at(value) <= 1 + 1e-9 for value in given_values)
        assert 2 <= len(axis.ticks) <= 40
        assert list(axis.ticks) == sorted(set(axis.ticks))
        texts = [axis.text(tick) for tick in axis.ticks]
        assert len(set(texts)) == len(texts), texts


@given(values)
def test_a_tick_of_a_plain_axis_is_not_rounded(given_values):
    axis = plain_axis("x", given_values)
    for tick in axis.ticks:
        said = axis.text(tick).replace(" ", "").replace("k", "e3")
        assert float(said) == pytest.approx(tick, rel=1e-6, abs=1e-12)


def test_times_far_apart_are_logarithmic_and_near_ones_are_not():
    far, near = time_axis("TTFT", [0.07, 3.4]), time_axis("TTFT", [0.07, 0.1])
    assert (far.log, far.label) == (True, "TTFT, log scale")
    assert [far.text(tick) for tick in far.ticks][:2] == ["50 ms", "100 ms"]
    assert (near.log, near.label, near.low) == (False, "TTFT, ms", 0.0)
    assert near.text(near.ticks[1]).isdigit()
    assert math.isclose(far.at(far.high), 1)


def test_nothing_measured_has_an_axis_too():
    for axis in (plain_axis("x", []), time_axis("x", []), time_axis("x", [0.0]), plain_axis("x", [0.0, 0.0])):
        assert axis.low < axis.high
        assert len(axis.ticks) > 1
    assert share_axis("x").text(0.5) == "50 %"
    assert named_axis("load", ["1", "4"]).text(1.0) == "4"
