"""`miner load`: load a model of a running gateway."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from miner.cli.output.tables import print_json
from miner.cli.parser import add_gateway_options

_EPILOG = """\
examples:
  miner load small
  miner load small --keep-alive 2h
  miner load small --pin

`miner ps` shows what is loaded; `miner unload small` undoes it.
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
    answer = client.act(args.name, "load", body, timeout=_SECONDS)
    if args.pin:
        answer |= client.act(args.name, "pin")
    if args.json:
        print_json(answer)
    else:
        print(f"{args.name} is loaded{' and pinned' if args.pin else ''}")
    return 0


def _duration(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
