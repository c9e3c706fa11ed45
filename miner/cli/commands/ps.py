"""`miner ps`: the models of a running gateway, and what they are doing."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from miner.cli.memory_taken import gpu_memory, main_memory, without_estimates
from miner.cli.output.errors import note
from miner.cli.output.style import columns
from miner.cli.output.tables import print_json, printable, with_lines
from miner.cli.parser import add_gateway_options
from miner.errors import MinerError

if TYPE_CHECKING:
    from miner.cli.gateway_client import GatewayClient

_EPILOG = """\
examples:
  miner ps
  miner ps --all
  miner ps --url http://node:8088 --key - < key.txt

Without --all only models that are loaded, loading or failed are shown, and
those with requests. `miner load NAME`, `miner unload NAME` and
`miner stop NAME` change what is loaded.
"""
_SHOWN_OF_ONE = ("state", "memory", "gpu_memory", "slots", "context_length", "expires_at", "pinned")
_SHOWN = ("ready", "sleeping", "loading", "stopping", "failed")


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Show the models of a running gateway that are loaded, and their requests.",
        epilog=_EPILOG,
        usage="miner ps [options]",
    )
    parser.set_defaults(run=run)
    parser.add_argument("-a", "--all", action="store_true", help="show all models")
    add_gateway_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table; return the exit status."""
    from miner.cli.gateway_client import GatewayClient, Models

    models = GatewayClient.of(args.url, args.key).get("/admin/models", Models)["models"]
    shown = [model for model in models if args.all or is_active(model)]
    if args.json:
        print_json({"models": [without_estimates(model) for model in shown]})
    elif shown:
        print(table_of(shown))
    else:
        note(f"No model is loaded; {len(models)} can be requested: `miner ps --all`. `miner load NAME` loads one.")
    return 0


def is_active(model: Mapping[str, Any]) -> bool:
    """Whether a model is loaded here, fails, or has requests."""
    return model.get("state") in _SHOWN or bool(model.get("slots_busy")) or bool(model.get("queued"))


def table_of(models: Sequence[Mapping[str, Any]]) -> str:
    """The table of models, as `/admin/models` has them, with their GPU memory if one takes some; the reasons of
    failures below their lines.
    """
    gpus = any(gpu_memory(model) for model in models)
    head = ("NAME", "BACKEND", "STATE", "MEMORY", *(["GPU"] if gpus else []), "CONTEXT", "BUSY", "QUEUED", "UNTIL")
    rows: list[tuple[str, ...]] = [head]
    rows += [_row(model, gpus) for model in models]
    reasons = [
        printable(" ".join(model["reason"].split()), limit=500) if model.get("reason") else None for model in models
    ]
    return with_lines(rows, reasons, right=frozenset(range(3, len(head) - 1)), columns=columns(sys.stdout))


def state_of(client: GatewayClient, name: str) -> dict[str, Any]:
    """What a model of a gateway takes and until when; empty where that is not known."""
    from miner.cli.gateway_client import Models

    try:
        models = client.get("/admin/models", Models)["models"]
    except MinerError:
        return {}
    found: dict[str, Any] = next(
        (model for model in models if name in (model.get("name"), *model.get("aliases", ()))), {}
    )
    return {key: found[key] for key in _SHOWN_OF_ONE if key in found}


def _row(model: Mapping[str, Any], gpus: bool) -> tuple[str, ...]:
    from miner.core.models.memory.verdict import readable

    sizes = [main_memory(model), *([gpu_memory(model)] if gpus else [])]
    slots = model.get("slots")
    busy = model.get("slots_busy") or 0
    return (
        printable(model["name"]) + ("*" if model.get("default") else ""),
        printable(model.get("backend") or "-"),
        model.get("state", "unloaded"),
        *(readable(size) if size else "-" for size in sizes),
        str(model.get("context_length") or "-"),
        f"{busy}/{slots}" if slots else str(busy or "-"),
        str(model.get("queued") or "-"),
        until(model),
    )


def until(model: Mapping[str, Any]) -> str:
    """When it is unloaded."""
    if model.get("pinned"):
        return "pinned"
    if model.get("state") != "ready":
        return "-"
    expires_at = model.get("expires_at")
    if expires_at is None:
        return "evicted"
    seconds = max(0, round(expires_at - time.time()))
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"
