"""`miner backends`: list the backends, and why one is unavailable."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from miner.cli.output.style import columns
from miner.cli.output.tables import print_json, with_lines
from miner.cli.parser import add_json_option

if TYPE_CHECKING:
    from miner.core.llms.registry import RegisteredBackend

_EPILOG = """\
examples:
  miner backends
  miner backends --json

available    it can be loaded; its server is not contacted
unavailable  the line below gives the reason and what to install

The default is LLM_BACKEND. With --json: {"default": ..., "backends": [{"name",
"state", "default", "version", "distribution", "class", "reason"}, ...]}.
"""


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="List the installed backends, and why one is unavailable.",
        epilog=_EPILOG,
        usage="miner backends [options]",
    )
    parser.set_defaults(run=run)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """List the backends; return the exit status."""
    from miner.config.config import MinerConfig
    from miner.core.llms.registry import chosen_name, find_backends

    config = MinerConfig()
    backends, default = find_backends(config), chosen_name(config)
    if args.json:
        described = [_describe(backend, default) for backend in backends]
        print_json({"default": default, "backends": described})
    else:
        print(_table(backends, default))
    return 0


def _describe(backend: RegisteredBackend, default: str) -> dict[str, Any]:
    return {
        "name": backend.name,
        "state": _state(backend),
        "default": backend.name == default,
        "version": backend.version,
        "distribution": backend.distribution,
        "class": backend.target,
        "reason": backend.reason,
    }


def _state(backend: RegisteredBackend) -> str:
    if not backend.configured:
        return "not set"
    return "available" if backend.cls is not None else "unavailable"


def _table(backends: list[RegisteredBackend], default: str) -> str:
    rows = [("NAME", "STATE", "VERSION", "DISTRIBUTION", "CLASS")]
    rows += [
        (
            backend.name + (" (default)" if backend.name == default else ""),
            _state(backend),
            backend.version or "?",
            backend.distribution or "?",
            backend.target.rpartition(":")[2],
        )
        for backend in backends
    ]
    reasons = [" ".join(backend.reason.split()) if backend.reason else None for backend in backends]
    shown = [with_lines(rows, reasons, columns=columns(sys.stdout))]
    if default not in {backend.name for backend in backends}:
        usable = next((backend.name for backend in backends if backend.cls is not None), None)
        instead = f"{usable} is used instead" if usable else "no other backend is available"
        shown += ["", f"LLM_BACKEND={default} is not installed; {instead}."]
    return "\n".join(shown)
