"""`miner stop`: stop a model of a running gateway at once."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from miner.cli.output.tables import print_json
from miner.cli.parser import add_gateway_options

_EPILOG = """\
examples:
  miner stop small
  miner stop small --url http://node:8088 --key - < key.txt

The next request loads it again. `miner ps` shows what is loaded.
"""
_SECONDS = 30.0
"""For the response."""


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Stop a model of a running gateway now: its requests end with an error.",
        epilog=_EPILOG,
        usage="miner stop NAME [options]",
    )
    parser.set_defaults(run=run)
    parser.add_argument("name", metavar="NAME", help="the model")
    add_gateway_options(parser)


def run(args: argparse.Namespace) -> int:
    """Stop the model; return the exit status."""
    from miner.cli.gateway_client import GatewayClient

    answer = GatewayClient.of(args.url, args.key).act(args.name, "stop", timeout=_SECONDS)
    if args.json:
        print_json(answer)
    else:
        print(f"{args.name} {'is stopped' if answer['stopped'] else 'was not loaded'}")
    return 0
