"""docs/configuration.md and examples/miner.toml say what the schema says."""

import re
import tomllib

import jsonschema
import pytest

from miner.config.file.json_schema import published_schema, raw_schema
from miner.config.file.read import parse_config
from tests.config.file.reference import PAGE, TABLES, rewritten
from tests.paths import ROOT

EXAMPLE = ROOT / "examples" / "miner.toml"


def test_the_tables_of_the_page_are_those_of_the_schema():
    """`python -m tests.config.file.reference` writes them."""
    page = PAGE.read_text()
    assert rewritten(page) == page
    assert set(TABLES.values()) == raw_schema()["$defs"].keys()
    assert all(f"<!-- keys: {name} -->" in page for name in TABLES)


def test_what_the_page_shows_is_valid(empty_directory):
    pages = PAGE.read_text() + (ROOT / "README.md").read_text()
    shown = [text for text in re.findall(r"```toml\n(.*?)```", pages, re.DOTALL) if "[models." in text]
    assert len(shown) > 1
    for text in shown:
        assert parse_config(text, empty_directory / "miner.toml", {}).notes == ()


def test_the_keys_of_defaults_are_listed_on_the_page():
    keys = raw_schema()["$defs"]["Defaults"]["properties"].keys() - {"model"}
    section = re.search(r"## \[defaults\]\n(.*?)<!--", PAGE.read_text(), re.DOTALL)[1]
    assert set(re.findall(r"`(\w+)`", section)) == keys


def test_the_example_is_valid_without_any_variable(empty_directory):
    text = EXAMPLE.read_text()
    assert parse_config(text, empty_directory / "miner.toml", {}).notes == ()
    jsonschema.Draft202012Validator(published_schema()).validate(tomllib.loads(text))


@pytest.mark.parametrize("table", ["Limits", "Backend", "Model", "Group", "Defaults"])
def test_the_example_has_each_key(table):
    text = EXAMPLE.read_text()
    keys = raw_schema()["$defs"][table]["properties"]
    assert [key for key in keys if not re.search(rf"^(# )?{key} = ", text, re.MULTILINE)] == []


def test_what_is_commented_out_in_the_example_is_valid_too(empty_directory):
    """Each by itself: some of them exclude each other."""
    (empty_directory / "far.key").write_text("key")
    lines = EXAMPLE.read_text().replace("~/.config/miner/", "").splitlines()
    tried = [number for number, line in enumerate(lines) if re.match(r"# [a-z_]+ = ", line)]
    assert len(tried) > 15
    for number in tried:
        changed = [*lines[:number], lines[number].removeprefix("# "), *lines[number + 1 :]]
        key = changed[number].partition(" ")[0]
        if key in ("hub", "options", "sleep"):
            continue  # instead of file; of another kind; with an option of the command
        parse_config("\n".join(changed), empty_directory / "miner.toml", {"FAR_KEY": "key"})
