"""`miner list`: the models that are here."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from miner.cli.model_actions import add_action, list_models

_EPILOG = """\
examples:
  miner list
  miner list --backend ollama
  miner list --config miner.toml
  miner list --url http://node:8088 --key - < key.txt

Those of llama.cpp are the files in MODELS_DIR, MODEL_PATH and the demo model;
FITS NOW compares each with the memory that is free. With a miner.toml, its
models and what they are doing; with --url, those of a server. `miner ps` shows
what a running gateway has loaded.

--json prints one object with `models`.
"""


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    add_action(new_parser(description="List models.", epilog=_EPILOG, usage="miner list [options]"), "list")


def run(args: argparse.Namespace) -> int:
    """List them; return the exit status."""
    return list_models(args)
