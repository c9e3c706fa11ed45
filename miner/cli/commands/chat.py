"""`miner chat`: a conversation with a model in the terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from miner.cli.chat.arguments import add_chat_options, refuse_one_prompt_options, settle
from miner.cli.chat.key_first import take_key
from miner.cli.parser import EXIT_STATUS

_EPILOG = f"""\
examples:
  miner chat
  miner chat -m gemma3 --system "Answer in one sentence."
  miner chat --url http://node:8088 --key - < key.txt
  miner chat --load holiday
  miner chat < question.txt

/help lists the commands of a chat: /model, /system, /save, /load, /image,
/tools, /json, /set, /retry, /stats and more. Ctrl-C stops a response and keeps
the conversation; Ctrl-D leaves.

--key - reads the key from standard input; the chat is then typed at the
terminal, unless more is piped in: that is a prompt.

What is piped in, or words after `chat`, are one prompt, whose response is
printed as by `miner generate`. Where only standard output is no terminal, each
line is a message, and responses are plain text.

{EXIT_STATUS}"""


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(description="Chat with a model.", epilog=_EPILOG, usage="miner chat [options] [PROMPT]")
    parser.set_defaults(run=run)
    add_chat_options(parser, words="PROMPT", words_help="one prompt instead of a chat")


def run(args: argparse.Namespace) -> int:
    """Chat; return the exit status."""
    settle(args)
    return run_chat(args)


def run_chat(args: argparse.Namespace) -> int:
    """Chat, or respond once to what is piped in or to the prompt; return the exit status."""
    take_key(args)
    if args.prompt or args.file or args.image or sys.stdin is None or not sys.stdin.isatty():
        from miner.cli import verbosity
        from miner.cli.commands import generate

        args.own_log = False
        if not args.timings or args.verbose > 1:
            verbosity.apply(args)
        return generate.run(args)
    refuse_one_prompt_options(args)
    from miner.cli.chat.start import chat
    from miner.cli.signals import run_until_stopped
    from miner.cli.target import target_config

    config = target_config(args)
    return run_until_stopped(lambda _: chat(args, config, args.model))
