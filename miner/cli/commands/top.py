"""`miner top`: what a running gateway does, live."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from miner.cli.parser import add_gateway_options
from miner.errors import ConfigError

_EPILOG = """\
examples:
  miner top
  miner top --once
  miner top --json | jq .tokens_per_second
  miner top --url http://node:8088 --key - < key.txt

keys: q quits, p pauses, left and right choose the column by which models are
sorted, up and down scroll. It goes on when the gateway is started again. With
--json one object a second; without a terminal it shows once, like `miner ps`.
"""


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Show what a running gateway does: models, slots, tokens per second, requests.",
        epilog=_EPILOG,
        usage="miner top [options]",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--once", action="store_true", help="show it once and exit")
    add_gateway_options(parser)


def run(args: argparse.Namespace) -> int:
    """Show the view; return the exit status."""
    from miner.cli.gateway_client import GatewayClient
    from miner.cli.output.style import is_terminal
    from miner.cli.signals import run_until_stopped
    from miner.cli.top.live import live, objects, once
    from miner.cli.top.view import View

    client = GatewayClient.of(args.url, args.key)
    view = View(client.base_url)
    if args.once or not (args.json or is_terminal(sys.stdout)):
        return once(client, view, as_json=args.json, announce=not args.once)
    if args.json:
        return run_until_stopped(lambda _: objects(client, view))
    try:
        import rich  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            "`miner top` draws with the package rich, which is not installed.",
            operator_hint='Install it with: pip install "llm-service-backends[cli]". `miner top --once` needs none.',
        ) from error
    return run_until_stopped(lambda _: live(client, view))
