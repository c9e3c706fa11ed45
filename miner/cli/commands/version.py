"""`miner version`: the versions of miner, Python, the engines' packages and, with --url, of a running gateway."""

from __future__ import annotations

import argparse
import platform
import re
import shutil
import sys
from collections.abc import Callable
from typing import Any

from miner import __version__
from miner.cli.output.tables import aligned, print_json
from miner.cli.parser import add_json_option
from miner.errors import MinerError

_EPILOG = """\
examples:
  miner version
  miner version --json
  miner version --url http://node:8088 --key - < key.txt

`miner --version` prints the version alone. Engines are packages of this Python,
and the programs llama-server (LLAMACPP_SERVER) and ollama where they are found;
`miner backends` says which backends can be used.
"""


_SECONDS = 5.0
"""For a program to say its version."""


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Print the versions of miner, Python and the engines that are installed.",
        epilog=_EPILOG,
        usage="miner version [options]",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--url", metavar="URL", help="also those of the gateway there (MINER_URL)")
    parser.add_argument(
        "--key", metavar="KEY", help="an API key with the admin right; -: read it from standard input (MINER_KEY)"
    )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print the versions; return the exit status."""
    from miner.core.engine.packages import installed_engines

    here: dict[str, Any] = {
        "miner": __version__, "python": platform.python_version(), "executable": sys.executable,
        "platform": platform.platform(), "engines": installed_engines(), "programs": _programs(),
    }  # fmt: skip
    if args.url is not None:
        from miner.cli.gateway_client import GatewayClient, Node

        try:
            node = GatewayClient.of(args.url, args.key).get("/admin/node", Node)
        except MinerError:
            if not args.json:
                print(aligned(_rows(here)))  # what is here can be said all the same
            raise
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


def _programs() -> dict[str, dict[str, str | None]]:
    """The engines that are programs: path and version, None where it does not say. Works with invalid settings too."""
    from miner.config.config import MinerConfig
    from miner.errors import ConfigError

    try:
        llama_server = MinerConfig().llamacpp_server
    except ConfigError:
        llama_server = None
    found = {"llama-server": shutil.which(llama_server or "llama-server"), "ollama": shutil.which("ollama")}
    return {name: {"path": path, "version": _version_of(path)} for name, path in found.items() if path is not None}


def _version_of(program: str) -> str | None:
    import subprocess

    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, errors="replace", timeout=_SECONDS,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = re.search(r"version:?\s+(?:is\s+)?(\S+)", done.stdout + done.stderr)
    return said[1] if said else None


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = [
        (name, str(found[name])) for name in ("miner", "python", "platform") if name in found
    ]
    rows += found["engines"].items()
    rows += [
        (name, f"{program['version'] or 'unknown'} ({program['path']})")
        for name, program in found.get("programs", {}).items()
    ]
    return rows if found["engines"] or found.get("programs") else [*rows, ("engines", "none here")]
