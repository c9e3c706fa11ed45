"""`miner load`: load a model of a running gateway."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable
from typing import Any

from miner.cli.commands.ps import state_of, until
from miner.cli.memory_taken import gpu_memory, main_memory, memory_words
from miner.cli.output.errors import note
from miner.cli.output.style import is_terminal
from miner.cli.output.tables import print_json
from miner.cli.parser import add_gateway_options

_EPILOG = """\
examples:
  miner load small
  miner load small --keep-alive 2h
  miner load small --pin

`miner ps` shows what is loaded; `miner unload small` undoes it.

--json prints one object: model, loaded, pinned, seconds, and as far as they are
known memory and gpu_memory (bytes), slots, context_length (tokens), expires_at
(seconds since 1970).
"""
_SECONDS = 24 * 3600.0
"""A load ends by the gateway's own limits, long before."""


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Load a model of a running gateway, so that its first request does not wait.",
        epilog=_EPILOG,
        usage="miner load NAME [options]",
    )
    parser.set_defaults(run=run)
    parser.add_argument("name", metavar="NAME", help="the model")
    parser.add_argument(
        "--keep-alive", metavar="TIME", help="how long it stays without requests: seconds, 5m, 2h; -1: for ever"
    )
    parser.add_argument("--pin", action="store_true", help="never evict it, nor unload it when it is idle")
    add_gateway_options(parser)


def run(args: argparse.Namespace) -> int:
    """Load the model; return the exit status."""
    from miner.cli.gateway_client import GatewayClient

    body: dict[str, Any] = {}
    if args.keep_alive is not None:
        body["keep_alive"] = _duration(args.keep_alive)
    client = GatewayClient.of(args.url, args.key)
    if is_terminal(sys.stderr):
        note(f"Loading {args.name} ...")
    began = time.monotonic()
    answer = client.act(args.name, "load", body, timeout=_SECONDS)
    answer["seconds"] = round(time.monotonic() - began, 3)
    if args.pin:
        answer |= client.act(args.name, "pin")
    answer |= state_of(client, answer["model"])
    if args.json:
        print_json(answer)
    else:
        print(f"{args.name} is loaded{' and pinned' if args.pin else ''}")
        note(f"{', '.join(_words(answer))}. {_stays(answer)}")
        note(f"`miner ps` shows it, `miner unload {shlex.quote(args.name)}` undoes it.")
    return 0


def _stays(loaded: dict[str, Any]) -> str:
    """Until when it stays loaded."""
    if loaded.get("pinned"):
        return "It stays until it is unloaded."
    if loaded.get("expires_at") is None:
        return "It stays until another model needs its memory."
    return f"It is unloaded after {until(loaded)} without requests."


def _words(loaded: dict[str, Any]) -> list[str]:
    """How long it took, and what it takes, as far as that is known."""
    words = [f"In {loaded['seconds']:.1f} s"]
    memory = memory_words(main_memory(loaded), gpu_memory(loaded))
    if memory:
        words.append(memory)
    slots, context = loaded.get("slots"), loaded.get("context_length")
    if context:
        words.append(f"{slots} slot{'' if slots == 1 else 's'} of {context} tokens" if slots else f"{context} tokens")
    return words


def _duration(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
