"""`miner run`: chat with a model by its name, as Ollama's users type it."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from miner.cli.chat.arguments import add_chat_options, settle
from miner.cli.commands.chat import run_chat
from miner.cli.output.errors import note
from miner.cli.parser import EXIT_STATUS, UsageError

_EPILOG = f"""\
examples:
  miner run gemma3
  miner run gemma3 why is the sky blue
  git diff | miner run gemma3 "Review this."
  miner run hf:bartowski/Llama-3.2-1B-Instruct-GGUF
  miner run gemma3 --format json "Three colours, as JSON"

A name of the form hf:OWNER/REPOSITORY[:QUANT] is downloaded first if it is not
there, as `miner models pull` does. Without a prompt it is `miner chat`; with
one, or with text piped in, `miner generate`.

{EXIT_STATUS}"""


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Chat with a model, or have it respond to a prompt.",
        epilog=_EPILOG,
        usage="miner run [options] NAME [PROMPT]",
    )
    parser.set_defaults(run=run)
    add_chat_options(parser, words="NAME", words_help="the model's name, then the words of a prompt")


def run(args: argparse.Namespace) -> int:
    """Run the model; return the exit status."""
    settle(args)
    if args.model is None:
        if not args.prompt:
            raise UsageError(
                "No model is named.",
                operator_hint="`miner models list` shows those that are here; `miner chat` takes the default one.",
            )
        args.model = args.prompt.pop(0)
        if not args.model.strip():
            raise UsageError(f"NAME {args.model!r}: must not be empty.", operator_hint="See `miner run --help`.")
    if args.url is None:
        _pull_if_missing(args)
    return run_chat(args)


def _pull_if_missing(args: argparse.Namespace) -> None:
    """Download a model of the Hugging Face Hub that is not on the disk."""
    if not args.model.startswith("hf:"):
        return
    from miner.cli.output.progress import PullBar
    from miner.cli.target import target_config

    config = target_config(args)
    if args.backend not in (None, "llamacpp") or config.llm_backend != "llamacpp":
        return  # its server knows the name, or refuses it
    from miner.cli.local_store import LocalStore
    from miner.errors import ModelNotFoundError

    store = LocalStore(config)
    try:
        store.path(args.model)
    except ModelNotFoundError:
        note(f"miner: {args.model} is not here yet: downloading it.")
        with PullBar() as bar:
            store.pull(args.model, bar)
