"""The parsers of all commands and actions, made as `miner` makes them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from miner.cli.main import COMMANDS
from miner.cli.parser import CommandParser

__all__ = ["all_parsers", "is_leaf"]


def all_parsers() -> Iterator[CommandParser]:
    """Each command's parser, and those of its actions, in the order of the help."""
    for name, (module, *_) in COMMANDS.items():
        made: list[CommandParser] = []

        def new_parser(*, name: str = name, made: list[CommandParser] = made, **settings: Any) -> CommandParser:
            made.append(CommandParser(prog=f"miner {name}", **settings))
            return made[-1]

        import_module(module).add_parser(new_parser)
        yield from _with_actions(made[0])


def _with_actions(parser: CommandParser) -> Iterator[CommandParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in dict.fromkeys(action.choices.values()):
                yield from _with_actions(each)


def is_leaf(parser: CommandParser) -> bool:
    """Whether it has no actions."""
    return not any(isinstance(action, argparse._SubParsersAction) for action in parser._actions)
