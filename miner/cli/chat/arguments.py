"""The options that `miner chat` and `miner run` share, and what they mean for a conversation."""

from __future__ import annotations

import argparse
from typing import Any

from miner.cli.parser import UsageError, add_json_option, add_target_options, add_words
from miner.cli.request_options import add_request_options, parameters_of

MAX_TOKENS = 4096
"""Of a response in a chat where DEFAULT_MAX_TOKENS is not set: its default would cut most of them."""
_ONE_PROMPT = ("image", "file", "raw", "suffix", "json", "no_stream")
"""Options of a single prompt."""


def add_chat_options(parser: argparse.ArgumentParser, *, words: str, words_help: str) -> None:
    """Add them."""
    parser.set_defaults(own_log=True)
    add_words(parser, "prompt", metavar=words, help=words_help)
    add_target_options(parser)
    add_request_options(parser)
    add_json_option(parser)
    most = f"maximum tokens of a response (DEFAULT_MAX_TOKENS, else {MAX_TOKENS} in a chat and 512 for one prompt); "
    parser._option_string_actions["--max-tokens"].help = f"{most}-1: until the context ends"
    parser._option_string_actions["--json"].help = "print one JSON object, for one prompt"
    parser._option_string_actions["--verbose"].help = "print timings after each response; -vv: log messages too"
    group = parser.add_argument_group("chat")
    add = group.add_argument
    add("--load", metavar="NAME", help="go on with a conversation that /save saved")
    add("--plain", "--nowordwrap", dest="plain", action="store_true", help="text as it comes: no Markdown, no wrapping")
    add("--hide-reasoning", "--hidethinking", dest="hide_thinking", action="store_true", help="do not show reasoning")
    add("--no-stream", action="store_true", help="print the text when it is complete, for one prompt")
    add("--format", metavar="FORMAT", help="json, or a file with a JSON Schema (Ollama's --format)")
    add("--keepalive", metavar="TIME", help="as --keep-alive (Ollama's name)")


def settle(args: argparse.Namespace) -> None:
    """Turn Ollama's names into ours.

    Raises:
        UsageError: both are set.
    """
    if args.format is not None:
        if args.schema or args.json_object:
            raise UsageError("--format excludes --schema and --json-object.")
        if args.format == "json":
            args.json_object = True
        else:
            args.schema = args.format
    if args.keepalive is not None:
        if args.keep_alive is not None:
            raise UsageError("--keepalive and --keep-alive exclude each other.")
        args.keep_alive = args.keepalive
        args.flags["keep_alive"] = "keepalive"
    args.timings = getattr(args, "verbose", 0) > 0


def refuse_one_prompt_options(args: argparse.Namespace) -> None:
    """Refuse, for a chat, what goes with a single prompt.

    Raises:
        UsageError: names the option.
    """
    for name in _ONE_PROMPT:
        if getattr(args, name):
            flag = f"--{name.replace('_', '-')}"
            hint = "/image sends one in a chat." if name == "image" else "Add a prompt, or pipe one in."
            raise UsageError(f"{flag} needs a prompt.", operator_hint=hint)


def request_of(args: argparse.Namespace) -> dict[str, Any]:
    """The parameters of each request in the chat, besides the model.

    Raises:
        MinerError: an argument is wrong.
    """
    return {name: value for name, value in parameters_of(args).items() if name != "model"}
