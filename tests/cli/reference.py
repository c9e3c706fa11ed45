"""docs/cli-reference.md: all commands with their options. `python -m tests.cli.reference` writes it anew."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from miner.cli.help import usage_of
from miner.cli.main import COMMANDS
from tests.cli.parsers import all_parsers, is_leaf
from tests.paths import ROOT

PAGE = ROOT / "docs" / "cli-reference.md"
_HEAD = """\
# Reference of the command line

All commands with their options, made from their parsers by `python -m tests.cli.reference`; a test compares. What the
commands do, and the shape of `--json`: [cli.md](cli.md). `miner COMMAND --help` has examples.

Every command has `-h`, `-v`/`--verbose`, `-q`/`--quiet`, `--log-level LEVEL` and `--debug`, before or after its name.
"""
_EVERYWHERE = {"help", "verbose", "quiet", "log_level", "debug"}


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    groups = dict.fromkeys(group for _, _, group in COMMANDS.values())
    for group in groups:
        rows = [
            f"| [`miner {name}`](#miner-{name}) | {_cell(line)} |"
            for name, (_, line, of) in COMMANDS.items()
            if of == group
        ]
        parts.append("\n".join([f"| {group} | |", "|---|---|", *rows]) + "\n")
    for parser in all_parsers():
        depth = "##" if parser.prog.count(" ") == 1 else "###"
        parts.append(f"{depth} {parser.prog}\n\n{_sentence(parser)}\n\n    {usage_of(parser)}\n")
        rows = list(_rows(parser)) if is_leaf(parser) else []
        if rows:
            parts.append("\n".join(["| option | |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _sentence(parser: argparse.ArgumentParser) -> str:
    return " ".join((parser.description or "").split())


def _rows(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if action.dest in _EVERYWHERE or action.help == argparse.SUPPRESS:
            continue
        yield f"| {_name(action)} | {_cell(action.help or '')} |"


def _name(action: argparse.Action) -> str:
    value = str(action.metavar or "|".join(map(str, action.choices or ())) or action.dest.upper())
    if not action.option_strings:
        return _code(value)
    options = ", ".join(map(_code, action.option_strings))
    return options if action.nargs == 0 else f"{options} {_code(value)}"


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", " ".join(text.split()).replace("%%", "%"))


if __name__ == "__main__":
    PAGE.write_text(page())
