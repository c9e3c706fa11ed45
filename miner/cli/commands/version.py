"""`miner version`: the versions of miner, Python, the engines' packages and, with --url, of a running gateway."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable
from typing import Any

from miner import __version__
from miner.cli.output.tables import aligned, print_json
from miner.cli.parser import add_json_option

_EPILOG = """\
examples:
  miner version
  miner version --json
  miner version --url http://node:8088 --key - < key.txt

`miner --version` prints the version alone. Of engines only packages of this
Python are shown; `miner backends` says which backends can be used.
"""


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Print the versions of miner, Python and the engines that are installed.",
        epilog=_EPILOG,
        usage="miner version [options]",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--url", metavar="URL", help="also those of the gateway there")
    parser.add_argument("--key", metavar="KEY", help="an API key with the admin right; -: read it from standard input")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print the versions; return the exit status."""
    from miner.core.engine.packages import installed_engines

    here: dict[str, Any] = {
        "miner": __version__, "python": platform.python_version(), "executable": sys.executable,
        "platform": platform.platform(), "engines": installed_engines(),
    }  # fmt: skip
    if args.url is not None:
        from miner.cli.gateway_client import GatewayClient

        node = GatewayClient.of(args.url, args.key).get("/admin/node")
        here["node"] = {
            "url": args.url, "miner": node["version"], "python": node["python"], "platform": node["platform"],
            "engines": node["engines"],
        }  # fmt: skip
    if args.json:
        print_json(here)
        return 0
    rows = _rows(here)
    if "node" in here:
        rows += [("", ""), ("node", here["node"]["url"]), *_rows(here["node"])]
    print(aligned(rows))
    return 0


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [(name, str(found[name])) for name in ("miner", "python", "platform") if name in found]
    return [*rows, *(found["engines"].items() or [("engines", "no packages; servers are used over HTTP")])]
