"""Tables and colours: what a terminal of some width shows."""

import io

import pytest

from miner.cli.output.style import Style, columns, has_colour
from miner.cli.output.tables import aligned, cell_len, name_values

ROWS = [("NAME", "SIZE", "STATE"), ("a-model-of-some-length", "93 MB", "ready"), ("b", "1.2 GiB", "-")]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_columns_are_aligned():
    assert aligned(ROWS, right=frozenset({1})).split("\n") == [
        "NAME                       SIZE  STATE",
        "a-model-of-some-length    93 MB  ready",
        "b                       1.2 GiB  -",
    ]


def test_a_table_wider_than_the_terminal_becomes_blocks():
    assert aligned(ROWS, columns=38) == aligned(ROWS)
    assert aligned(ROWS, columns=37).split("\n") == [
        "NAME   a-model-of-some-length", "SIZE   93 MB", "STATE  ready", "",
        "NAME   b", "SIZE   1.2 GiB", "STATE  -",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "cells"), [("abc", 3), ("日本", 4), ("é", 1), ("e\u0301", 1), ("\x1b[1mab\x1b[0m", 2)]
)
def test_cells_of_wide_combining_and_coloured_text(text, cells):
    assert cell_len(text) == cells
    (line, _) = aligned([(text, "|"), ("xxxxxx", "|")]).split("\n")
    assert cell_len(line) == 9


@pytest.mark.parametrize(
    ("stream", "variables", "coloured"),
    [
        (io.StringIO(), {}, False),
        (Terminal(), {}, True),
        (None, {}, False),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"NO_COLOR": ""}, True),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {"FORCE_COLOR": "1"}, True),
        (io.StringIO(), {"FORCE_COLOR": "0"}, False),
        (Terminal(), {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
    ],
)
def test_colour_is_for_terminals_unless_the_environment_says_otherwise(monkeypatch, stream, variables, coloured):
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert has_colour(stream) is coloured
    assert Style(stream).red("x") == ("\x1b[31mx\x1b[0m" if coloured else "x")


def test_only_a_terminal_has_a_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "57")
    monkeypatch.setenv("TERM", "xterm")
    assert columns(io.StringIO()) is None
    assert columns(Terminal()) == 57


def test_names_and_values_on_any_width():
    rows = [("name", "alice"), ("requests", "no limit of its own")]
    assert name_values(rows, columns=None) == "name      alice\nrequests  no limit of its own"
    assert name_values(rows, columns=28) == "name      alice\nrequests  no limit of its\n          own"
    assert name_values(rows, columns=20) == "name\n    alice\nrequests\n    no limit of its\n    own"
    assert name_values([], columns=20) == ""
