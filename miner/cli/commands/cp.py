"""`miner cp`: give a model another name."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from miner.cli.model_actions import add_action, copy_model

_EPILOG = """\
examples:
  miner cp Llama-3.2-1B-Instruct-Q4_K_M gpt-4o-mini
  miner cp llama3.2 my-model --backend ollama

No file is copied: both names are of the same files, which llama.cpp's store
deletes only once no other name needs them. In a miner.toml a name for clients is
an alias.

--json prints one object: name, copied_from.
"""


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    add_action(
        new_parser(description="Give a model another name.", epilog=_EPILOG, usage="miner cp NAME NEW_NAME [options]"),
        "cp",
    )


def run(args: argparse.Namespace) -> int:
    """Copy it; return the exit status."""
    return copy_model(args)
