"""`miner unload`: unload a model of a running gateway once its requests are done."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from miner.cli.output.tables import print_json
from miner.cli.parser import add_gateway_options

_EPILOG = """\
examples:
  miner unload small
  miner unload small --url http://node:8088 --key - < key.txt

The next request loads it again. `miner ps` shows what is loaded.
"""
_SECONDS = 3600.0
"""Longer than a gateway waits for requests."""


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Unload a model of a running gateway once its requests are done.",
        epilog=_EPILOG,
        usage="miner unload NAME [options]",
    )
    parser.set_defaults(run=run)
    parser.add_argument("name", metavar="NAME", help="the model")
    add_gateway_options(parser)


def run(args: argparse.Namespace) -> int:
    """Unload the model; return the exit status."""
    from miner.cli.gateway_client import GatewayClient

    answer = GatewayClient.of(args.url, args.key).act(args.name, "unload", timeout=_SECONDS)
    if args.json:
        print_json(answer)
    else:
        print(f"{args.name} {'is unloaded' if answer['unloaded'] else 'was not loaded'}")
    return 0
