"""Reading a miner.toml that a test writes."""

import textwrap

import pytest

from miner.config.file.problems import ConfigFileError
from miner.config.file.read import parse_config


@pytest.fixture
def parse(empty_directory):
    def parse(text, **environment):
        return parse_config(textwrap.dedent(text), empty_directory / "miner.toml", environment)

    return parse


@pytest.fixture
def errors(parse):
    """Each problem of a text as one line: `line: key = value: message. hint`."""

    def errors(text, **environment):
        with pytest.raises(ConfigFileError, match=r"^miner\.toml:") as raised:
            parse(text, **environment)
        return [f"{problem.line}: {problem.text}. {problem.hint or ''}".rstrip() for problem in raised.value.problems]

    return errors


@pytest.fixture
def notes(parse):
    def notes(text, **environment):
        return [f"{note.line}: {note.text}" for note in parse(text, **environment).notes]

    return notes
