""".env.example lists all settings with their defaults, each with one line that says what it is."""

import re
from pathlib import Path

import pytest
from dotenv import dotenv_values

from miner.config.config import MinerConfig
from miner.config.sources import variable_of
from tests.config.conftest import ALL

EXAMPLE = Path(__file__).parents[2] / ".env.example"


def test_it_lists_each_setting_once_in_the_order_of_the_fields():
    listed = re.findall(r"^([^#\s=]+)=", EXAMPLE.read_text(), re.MULTILINE)
    assert listed == [variable_of(name) for settings in ALL for name in settings.model_fields]


def test_each_setting_has_one_comment_line_of_its_own():
    lines = EXAMPLE.read_text().splitlines()
    for at, line in enumerate(lines):
        if line and not line.startswith("#"):
            assert re.fullmatch(r"# \S.+\.", lines[at - 1]), f"{line} has no comment"
            assert lines[at - 2] == "" or not lines[at - 2].startswith("#"), f"{line} has more than one line"
    assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize("settings", ALL)
def test_its_values_are_the_defaults(settings):
    listed = dotenv_values(EXAMPLE)
    for name, field in settings.model_fields.items():
        shown = "" if field.default is None else str(field.default)
        assert listed[variable_of(name)].lower() == shown.lower(), name


@pytest.mark.parametrize("settings", ALL)
def test_copied_to_dotenv_it_changes_nothing(settings, empty_directory):
    defaults = settings()
    (empty_directory / ".env").write_text(EXAMPLE.read_text())
    assert settings() == defaults


def test_the_readmes_table_has_no_name_that_is_none():
    readme = (EXAMPLE.parent / "README.md").read_text()
    table = readme.partition("## Configuration")[2].partition("\n## ")[0]
    names = re.findall(r"`([A-Z][A-Z0-9_]{4,})`", table)
    known = {variable_of(name) for settings in ALL for name in settings.model_fields}
    assert len(names) > 10
    assert [name for name in names if name not in known] == []
    assert "LLM_BACKEND" in names
    assert MinerConfig.model_fields["llm_backend"].default in table
