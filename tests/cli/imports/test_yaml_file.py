"""YAML of an unknown hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.cli.imports.yaml_file import read_yaml
from miner.errors import ConfigError


@pytest.fixture
def read(tmp_path):
    def read(text, **options):
        path = tmp_path / "config.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_yaml(path, **options)

    return read


def test_keys_are_text_and_values_plain(read):
    content, twice = read("1: a\ntrue: b\nnull: c\nd: {2: [1, 0x10, 1.5, no, 2024-02-01, 8080:80, ~]}\n")
    assert content == {
        "1": "a",
        "true": "b",
        "null": "c",
        "d": {"2": [1, 16, 1.5, False, "2024-02-01", "8080:80", None]},
    }
    assert twice == []


def test_newer_yaml_has_fewer_words_for_true(read):
    assert read("a: on\nb: yes\nc: True\nd: 010\ne: 0o10", newer=True)[0] == {
        "a": "on", "b": "yes", "c": True, "d": 8, "e": 8,
    }  # fmt: skip


def test_keys_that_stand_twice_are_named_and_the_last_one_counts(read):
    content, twice = read("models:\n  a: 1\n  b: 2\n  a: 3\nmodels2: {}\n")
    assert content["models"] == {"a": 3, "b": 2}
    assert twice == [("models.a", "line 2 sets it already: line 4 counts")]


def test_anchors_and_merges_are_followed(read):
    assert read("x: &x {a: 1}\ny: {<<: *x, b: 2}\nz: *x\n")[0] == {"x": {"a": 1}, "y": {"a": 1, "b": 2}, "z": {"a": 1}}


def test_aliases_that_make_too_much_of_it_are_refused(read):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(ConfigError, match="more than 200000 values"):
        read("\n".join(lines))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &a [*a]", "contains itself"),
        ("[" * 3000 + "]" * 3000, "nested too deeply"),
        ("a: !!python/object/apply:os.system ['true']", ":1: not YAML"),
        ("a: b: c", ":1: not YAML"),
        ("a: 1\n---\nb: 2", "not YAML"),
        ("- a", "holds no keys"),
        ('a: "x\\0y"', "NUL"),
        (b"a: \xff", "not UTF-8"),
        ("a: {b: [1", "not YAML"),
        ("? [a]\n: b", "not YAML"),
        ("a: " + "9" * 5000 + "\nb: [", "not YAML"),
    ],
)
def test_what_is_no_configuration_is_refused_with_its_place(read, text, says):
    with pytest.raises(ConfigError, match=says):
        read(text)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.yaml cannot be read"):
        read_yaml(tmp_path / "config.yaml")


def test_an_empty_file_has_no_keys(read):
    assert read("# nothing\n") == ({}, [])


@given(text=st.text(max_size=60))
def test_nothing_but_config_errors(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    try:
        read_yaml(path, newer=True)
    except ConfigError:
        pass
