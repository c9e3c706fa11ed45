"""Which name was meant: only one that is near."""

import pytest

from miner.config.near import closest

OPTIONS = ["--help", "--verbose", "--quiet", "--json", "--request-rate", "--requests", "--temperature", "--max-tokens",
           "--prompt-tokens", "--output", "-m", "--model"]  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--rate", "--request-rate"), ("--tokens", "--max-tokens"), ("--temp", "--temperature"), ("--jsn", "--json"),
        ("--output-file", "--output"), ("--max-output-tokens", "--max-tokens"), ("--request", "--requests"),
        ("--maxTokens", "--max-tokens"), ("--modle", "--model"), ("--Quiet", "--quiet"), ("--bogus", None),
        ("--x", None), ("--", None), ("--m", "-m"), ("--stop", None), ("--rater", None),
    ],
)  # fmt: skip
def test_it_is_guessed_only_where_it_is_near(typed, meant):
    assert closest(typed, OPTIONS) == meant
    assert closest(typed, reversed(OPTIONS)) == meant


def test_the_opposite_is_no_guess():
    assert closest("--stream", ["--no-stream", "--model"]) is None
