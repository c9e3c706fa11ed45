"""`miner backends`: which backends there are, and why one cannot be used."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miner.core.llms.registry import Backend

__all__ = ["add_parser", "run"]

_EXAMPLES = """\
examples:
  miner backends
  miner backends --json

available    it can be loaded; whether its server answers is seen on use
unavailable  the line below says why, and what to install

The default is LLM_BACKEND. With --json: {"default": ..., "backends": [{"name",
"state", "default", "version", "distribution", "class", "reason"}, ...]}.
"""


def add_parser(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "backends",
        help="list the backends, and why one cannot be used",
        description="List the backends that are installed, and why one cannot be used.",
        epilog=_EXAMPLES,
        usage="miner backends [options]",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print a JSON object in place of the table")


def run(args: argparse.Namespace) -> int:
    """List the backends."""
    from miner.config.config import MinerConfig
    from miner.core.llms.registry import find_backends

    config = MinerConfig()
    backends = find_backends(config)
    if args.json:
        import json

        listed = [_described(backend, config.llm_backend) for backend in backends]
        print(json.dumps({"default": config.llm_backend, "backends": listed}, indent=2))
        return 0
    print(_table(backends, config.llm_backend))
    return 0


def _described(backend: Backend, default: str) -> dict[str, Any]:
    return {
        "name": backend.name,
        "state": _state(backend),
        "default": backend.name == default,
        "version": backend.version,
        "distribution": backend.distribution,
        "class": backend.target,
        "reason": backend.reason,
    }


def _state(backend: Backend) -> str:
    return "available" if backend.cls is not None else "unavailable"


def _table(backends: list[Backend], default: str) -> str:
    heads = ("NAME", "STATE", "VERSION", "DISTRIBUTION", "CLASS")
    rows = [
        (
            backend.name + (" (default)" if backend.name == default else ""),
            _state(backend),
            backend.version or "?",
            backend.distribution or "?",
            backend.target.rpartition(":")[2],
        )
        for backend in backends
    ]
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    lines = [_row(heads, widths)]
    for backend, row in zip(backends, rows, strict=True):
        lines.append(_row(row, widths))
        if backend.reason:
            lines.append(f"  {' '.join(backend.reason.split())}")
    if default not in {backend.name for backend in backends}:
        usable = next((backend.name for backend in backends if backend.cls is not None), None)
        instead = f"{usable} is used instead" if usable else "nothing can be used instead"
        lines += ["", f"LLM_BACKEND={default} is none of these: {instead}."]
    return "\n".join(lines)


def _row(cells: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
