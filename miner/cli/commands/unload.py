"""`miner unload`: unload a model of a running gateway once its requests are done."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from miner.cli.commands.ps import state_of
from miner.cli.memory_taken import gpu_memory, main_memory, memory_words
from miner.cli.output.errors import note
from miner.cli.output.tables import print_json
from miner.cli.parser import add_gateway_options

_EPILOG = """\
examples:
  miner {action} small
  miner {action} small --url http://node:8088 --key - < key.txt

The next request loads it again. `miner ps` shows what is loaded.

--json prints one object: model, {done}, freed (bytes of main memory; null if
unknown), and freed_gpu (bytes) where it had GPU memory.
"""
_DONE = {"unload": "unloaded", "stop": "stopped"}
"""Action -> the field of the response that says whether the model was loaded."""
_SECONDS = 3600.0
"""Longer than a gateway waits for requests."""


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    description = "Unload a model of a running gateway once its requests are done."
    add_action_parser(new_parser, "unload", description, run)


def run(args: argparse.Namespace) -> int:
    """Unload the model; return the exit status."""
    return take_out(args, "unload")


def add_action_parser(
    new_parser: Callable[..., argparse.ArgumentParser],
    action: str,
    description: str,
    run: Callable[[argparse.Namespace], int],
) -> None:
    """Add the parser of a command that takes a model out of memory."""
    parser = new_parser(
        description=description,
        epilog=_EPILOG.format(action=action, done=_DONE[action]),
        usage=f"miner {action} NAME [options]",
    )
    parser.set_defaults(run=run)
    parser.add_argument("name", metavar="NAME", help="the model")
    add_gateway_options(parser)


def take_out(args: argparse.Namespace, action: str) -> int:
    """Take the model out of memory by an action of the admin routes; return the exit status."""
    from miner.cli.gateway_client import GatewayClient

    client, done = GatewayClient.of(args.url, args.key), _DONE[action]
    before = state_of(client, args.name)
    answer = client.act(args.name, action, timeout=_SECONDS)
    freed, freed_gpu = (main_memory(before), gpu_memory(before)) if answer.get(done) else (0, 0)
    if args.json:
        print_json(answer | {"freed": freed or None} | ({"freed_gpu": freed_gpu} if freed_gpu else {}))
    else:
        print(f"{args.name} {f'is {done}' if answer.get(done) else 'was not loaded'}")
        if freed or freed_gpu:
            size = memory_words(freed, freed_gpu)
            note(f"{size if freed_gpu else f'{size} of memory'} are free again.")
    return 0
