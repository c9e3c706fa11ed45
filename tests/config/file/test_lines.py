"""Where everything stands in a TOML text, against texts whose lines are known, and against tomllib."""

import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.config.file.lines import MAX_DEPTH, Lines, TooDeepError

TEXT = '''\
# [not.this]
[models.small]   # [nor.this]
context = 5
sampling = { temperature = 1, stop = ["}", """
]"""], "top p" = 2 }
text = """
[not.a.header]
x = 1 \\
""""
a.b."c.d" = [1, # [x]
 2,
 { x = 1 },
]
[[list]]
x = '[y]'
[[list]]
[list.z]
q = 1979-05-27 07:32:00
"qu\\u006fted" = \'\'\'
x = 3\'\'\'\'
'''


def test_what_looks_like_a_header_in_a_comment_or_a_text_is_none():
    tomllib.loads(TEXT)
    small, last = ("models", "small"), ("list", 1, "z")
    assert {path: Lines(TEXT).line(path) for path in Lines(TEXT).paths()} == {
        ("models",): 2, small: 2, (*small, "context"): 3, (*small, "sampling"): 4,
        (*small, "sampling", "temperature"): 4, (*small, "sampling", "stop"): 4, (*small, "sampling", "stop", 0): 4,
        (*small, "sampling", "stop", 1): 4, (*small, "sampling", "top p"): 5, (*small, "text"): 6,
        (*small, "a"): 10, (*small, "a", "b"): 10, (*small, "a", "b", "c.d"): 10, (*small, "a", "b", "c.d", 0): 10,
        (*small, "a", "b", "c.d", 1): 11, (*small, "a", "b", "c.d", 2): 12, (*small, "a", "b", "c.d", 2, "x"): 12,
        ("list",): 14, ("list", 0): 14, ("list", 0, "x"): 15, ("list", 1): 16, last: 17, (*last, "q"): 18,
        (*last, "quoted"): 19,
    }  # fmt: skip


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_ends_of_both_kinds(end):
    text = end.join(["[a]", "b = '''", "c = 1'''", "d = 2", ""])
    assert Lines(text).line(("a", "d")) == 4


def test_a_table_above_its_own_header_has_the_line_of_the_header():
    assert Lines("[a.b]\nx = 1\n[a]\ny = 2").line(("a",)) == 3


def test_what_does_not_stand_there_has_the_line_of_the_table_around_it():
    lines = Lines("\n[a.b]\nx = 1")
    assert [lines.line(path) for path in (("a", "b", "no", "no"), ("c",), ())] == [2, 1, 1]


def test_arrays_inside_each_other_have_a_bound():
    assert Lines("a = " + "[" * (MAX_DEPTH - 1)).paths()
    with pytest.raises(TooDeepError):
        Lines("a = " + "[" * 2 * MAX_DEPTH)


@given(st.text(alphabet="[]{}=.,\"'# \n\\ab1\r\t", max_size=40))
def test_any_text_ends(text):
    """Not only TOML: the text up to an error is read too."""
    Lines(text)


keys = st.sampled_from(["a", "b-1", "é", "c.d", "[x]", 'q"', "#", "'", "\\", "\n", ""])
scalars = st.sampled_from([
    "1", "-0.5", "true", "1979-05-27T07:32:00Z", '"x"', "'[y]'", '"# = ]}"', '"""\n[z]\n"" \\""""', "'''\n#\n''''",
    "'\\'", '"\\u00e9\\\\"', "inf", '""',
])  # fmt: skip


@st.composite
def values(draw, depth=2):
    """A value as text."""
    kind = draw(st.integers(0, 5)) if depth else 0
    if kind == 4:
        between = draw(st.sampled_from([", ", ",\n", " , # ]\n"]))
        end = draw(st.sampled_from(["", "\n", " # x\n"]))
        return f"[{between.join(draw(st.lists(values(depth - 1), max_size=3)))}{end}]"
    if kind == 5:
        pairs = draw(st.dictionaries(keys, values(depth - 1), max_size=3))
        return "{ " + ", ".join(f"{quoted(key)} = {value}" for key, value in pairs.items()) + " }"
    return draw(scalars)


def quoted(key):
    return key if key.isascii() and key.replace("-", "").isalnum() else json.dumps(key)


@st.composite
def documents(draw):
    """A text, and the lines of its headers and of the keys below them."""
    lines, known = [], {}
    for header in draw(st.lists(st.lists(keys, min_size=1, max_size=2), max_size=4, unique_by=tuple)):
        known[tuple(header)] = 1 + sum(text.count("\n") + 1 for text in lines)
        lines.append(f" [ {' . '.join(map(quoted, header))} ] # [x]")
        for key, value in draw(st.dictionaries(keys, values(), max_size=3)).items():
            known[(*header, key)] = 1 + sum(text.count("\n") + 1 for text in lines)
            lines.append(f"{quoted(key)}={value}  # a = 1")
        lines += draw(st.sampled_from([[], [""], ["# a = 1", ""]]))
    return "\n".join(lines), known


def paths_of(value, path=()):
    if path:
        yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        yield from paths_of(each, (*path, key))


@given(documents())
def test_each_table_key_and_element_that_tomllib_reads_has_its_line(document):
    text, known = document
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return  # a table that is a key of another
    lines = Lines(text)
    assert lines.paths() == set(paths_of(content))
    assert {path: lines.line(path) for path in known} == known


@given(documents())
def test_a_line_holds_its_key(document):
    text, _ = document
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines, rows = Lines(text), text.split("\n")
    for path in lines.paths():
        if isinstance(path[-1], str):
            assert quoted(path[-1]) in rows[lines.line(path) - 1]
