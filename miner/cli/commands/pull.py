"""`miner pull`: download a model."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from miner.cli.model_actions import add_action, pull_model

_EPILOG = """\
examples:
  miner pull hf:bartowski/Llama-3.2-1B-Instruct-GGUF
  miner pull hf:unsloth/Qwen3-4B-GGUF:Q8_0
  miner pull llama3.2 --backend ollama

hf:owner/repo is a repository of GGUF files on the hub (HF_ENDPOINT, HF_TOKEN);
without a quantization behind it the best known one is taken. The files land in
MODELS_DIR; complete ones are not downloaded again, and an interrupted download
goes on where it stopped. The name to use goes to standard output.

--json prints one object: name, size (bytes), directory, downloaded, seconds.
"""


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    add_action(new_parser(description="Download a model.", epilog=_EPILOG, usage="miner pull NAME [options]"), "pull")


def run(args: argparse.Namespace) -> int:
    """Download it; return the exit status."""
    return pull_model(args)
