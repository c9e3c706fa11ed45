"""`miner show`: what a model is and can do."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from miner.cli.model_actions import add_action, show_model

_EPILOG = """\
examples:
  miner show demo
  miner show llama3.2 --backend ollama
  miner show small --config miner.toml
  miner show demo --template
  miner show demo --json

Of a llama.cpp model: what its file says, what it can do, and whether it fits
into the memory that is free. Nothing is loaded. --template, --system, --license
and --parameters (the sampling that it brings along) print that alone.

--json prints one object; sizes are bytes, lengths tokens.
"""


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    add_action(
        new_parser(description="Show what a model is and can do.", epilog=_EPILOG, usage="miner show NAME [options]"),
        "show",
    )


def run(args: argparse.Namespace) -> int:
    """Show it; return the exit status."""
    return show_model(args)
