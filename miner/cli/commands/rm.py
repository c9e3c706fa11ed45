"""`miner rm`: delete models."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from miner.cli.model_actions import add_action, remove_models

_EPILOG = """\
examples:
  miner rm unsloth/Qwen3-4B-GGUF/Qwen3-4B-Q8_0
  miner rm Qwen3-4B-Q8_0 Qwen3-4B-Q4_K_M
  miner rm llama3.2 --backend ollama

NAME is a model's full name, as `miner list` has it, or its last part. All its
files are deleted, with the projector that no other model beside it needs. Files
outside of MODELS_DIR are not touched.

--json prints one object with `removed`: name, and freed (bytes; null if unknown).
"""


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    add_action(new_parser(description="Delete models.", epilog=_EPILOG, usage="miner rm NAME... [options]"), "rm")


def run(args: argparse.Namespace) -> int:
    """Delete them; return the exit status."""
    return remove_models(args)
