"""The help and the options of every command and action: on terminals of any width, in colour and without."""

import re
import shlex

import pytest

from miner.cli.main import COMMANDS
from miner.cli.output.wrap import cell_len
from tests.cli.parsers import all_parsers, is_leaf
from tests.cli.pty_screen import raw_output, screen_of

PARSERS = {parser.prog: parser for parser in all_parsers()}
LEAVES = {name: parser for name, parser in PARSERS.items() if is_leaf(parser)}


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("name", PARSERS)
def test_help_fits(name, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    text = PARSERS[name].format_help()
    for line in text.splitlines():
        assert cell_len(line) <= min(width, 80) or len(line.removesuffix("\\").split()) == 1 or is_quoted(line), line
        assert line == line.rstrip()


def is_quoted(line):
    """Whether a line is one word in quotes, which cannot be broken."""
    return re.fullmatch(r"""\s*(?:[^\s"']|"[^"]*"|'[^']*')+(?: \\)?""", line) is not None


def examples_of(text):
    block = text.partition("examples:\n")[2].partition("\n\n")[0]
    return block.replace("\\\n", "").splitlines()


@pytest.mark.parametrize("name", PARSERS)
def test_examples_are_the_same_commands_on_a_narrow_terminal(name, monkeypatch):
    found = []
    for width in (40, 80):
        monkeypatch.setenv("COLUMNS", str(width))
        found.append([shlex.split(line, comments=True) for line in examples_of(PARSERS[name].format_help())])
    assert found[0] == found[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_can_be_run(name):
    """Each names a command that is there, with options that it has."""
    for line in examples_of(PARSERS[f"miner {name}"].format_help()):
        for command in re.split(r"[|;&]|\$\(|\bdo\b", line):
            try:
                words = shlex.split(command.replace(")", ""), comments=True)
            except ValueError:  # the split was inside quotes
                continue
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words[:1] != ["miner"]:
                continue
            prog = " ".join(words[:3]) if " ".join(words[:3]) in PARSERS else " ".join(words[:2])
            assert prog in PARSERS, line
            options = [word.partition("=")[0] for word in words if re.fullmatch(r"--?[a-z].*", word)]
            end = words.index("--") if "--" in words else len(words)
            known = PARSERS[prog]._option_string_actions
            assert [each for each in options if each in words[:end] and each not in known] == [], line


@pytest.mark.parametrize("name", PARSERS)
def test_order_of_sections(name):
    text = PARSERS[name].format_help()
    headings = re.findall(r"^([a-z ]+):$", text, re.MULTILINE)
    assert "positional arguments" not in headings
    first = [each for each in headings if each in ("arguments", "actions", "options", "messages", "examples")]
    order = ["arguments", "actions", "options", "messages", "examples"]
    assert first == [each for each in order if each in first]
    assert re.match(rf"usage: {name}\b", text)


@pytest.mark.parametrize("name", LEAVES)
def test_options_that_every_command_has(name):
    options = LEAVES[name]._option_string_actions
    assert {"-v", "--verbose", "-q", "--quiet", "--log-level", "--debug", "-h", "--help", "--json"} <= options.keys()
    assert ("-m" in options) == ("--model" in options)
    if "-m" in options:
        assert options["-m"] is options["--model"]


def test_every_option_has_a_line_of_help():
    for name, parser in PARSERS.items():
        for action in parser._actions:
            assert action.help or not is_leaf(parser), f"{name}: {action.option_strings or action.dest}"


@pytest.mark.process
@pytest.mark.parametrize("arguments", [[], ["serve", "--help"], ["config", "show", "--help"]])
def test_on_a_terminal_headings_are_bold(arguments, tmp_path):
    data, status = raw_output(arguments, width=80, directory=tmp_path)
    assert status == 0
    assert b"\x1b[1moptions:\x1b[0m" in data
    assert b"\x1b[1mmessages:\x1b[0m" in data
    plain = re.sub(rb"\x1b\[[0-9;]*m", b"", data)
    bare, _ = raw_output(arguments, width=80, directory=tmp_path, NO_COLOR="1")
    assert b"\x1b" not in bare
    assert plain == bare


@pytest.mark.process
@pytest.mark.parametrize("width", [40, 200])
def test_on_a_narrow_and_a_wide_terminal(width, tmp_path):
    lines, status = screen_of(["keys", "--help"], width=width, directory=tmp_path)
    assert status == 0
    text = "\n".join(lines)
    assert lines[0].startswith("usage: miner keys ")
    assert max(map(len, lines)) <= min(width, 80)
    assert "MINER_API_KEYS_FILE" in text


def test_argparse_adds_no_colour_of_its_own(monkeypatch):
    """It would from Python 3.14 on."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    for parser in PARSERS.values():
        assert "\x1b" not in parser.format_help()
