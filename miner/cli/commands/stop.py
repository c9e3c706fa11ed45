"""`miner stop`: stop a model of a running gateway at once."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from miner.cli.commands.unload import add_action_parser, take_out


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    description = "Stop a model of a running gateway now: its requests end with an error."
    add_action_parser(new_parser, "stop", description, run)


def run(args: argparse.Namespace) -> int:
    """Stop the model; return the exit status."""
    return take_out(args, "stop")
