"""`miner models`: the models that are here; get one, look at one, delete one, give one that failed another chance."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miner.cli.model_store import Row, Store

__all__ = ["add_parser", "run"]

_EXAMPLES = """\
examples:
  miner models list
  miner models pull hf:bartowski/Llama-3.2-1B-Instruct-GGUF
  miner models pull hf:unsloth/Qwen3-4B-GGUF:Q8_0
  miner models show demo
  miner models rm unsloth/Qwen3-4B-GGUF/Qwen3-4B-Q8_0
  miner models path demo
  miner models reset demo --url http://127.0.0.1:8088 --key - < key.txt

A model is named by a path, by its whole name in MODELS_DIR, or what stands
behind its last / (capitals do not matter), by hf:owner/repo[:quantisation or
file], or demo. A pull that was broken off goes on where it stopped. HF_TOKEN,
HF_ENDPOINT and proxies are honoured.
With LLM_BACKEND=ollama all this goes to the Ollama server.
"""
_NAMED = (
    ("show", "show what a model's header says, and whether it fits into memory"),
    ("pull", "download a model into the models directory"),
    ("rm", "delete a model from the models directory; the whole name is needed"),
    ("path", "print where a model's file is"),
)


def add_parser(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "models",
        help="list, show, get and delete models",
        description="List, show, get and delete models.",
        epilog=_EXAMPLES,
        usage="miner models ACTION [NAME] [options]",
    )
    parser.set_defaults(run=run, action=None, name=None)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", prog="miner models")
    listed = actions.add_parser("list", help="list the models that are here", description="List the models.")
    commands = [listed]
    for action, line in _NAMED:
        command = actions.add_parser(action, help=line, description=f"{line[0].upper()}{line[1:]}.")
        command.add_argument("name", metavar="NAME", help="the model")
        commands.append(command)
    for command in commands:
        command.add_argument("--backend", metavar="NAME", help="llamacpp or ollama; default: LLM_BACKEND")
    reset = actions.add_parser(
        "reset",
        help="have a gateway start the engine of a model again that failed",
        description="Have a gateway that runs forget that the engine of a model failed, so that\n"
        "the next request starts it again.",
    )
    reset.add_argument("name", metavar="NAME", help="the model")
    reset.add_argument(
        "--url", metavar="URL", help="the gateway; default: that of MINER_SERVE_HOST and MINER_SERVE_PORT"
    )
    reset.add_argument("--key", metavar="KEY", help="a key with the admin right; -: read it from standard input")
    for command in (*commands, reset):
        command.add_argument("--json", action="store_true", help="print JSON in place of text")


def run(args: argparse.Namespace) -> int:
    """Do what the action says."""
    from miner.cli.parser import UsageError

    if args.action is None:
        raise UsageError("No action was given.", hint="Actions are: list, show, pull, rm, path, reset.")
    if args.action == "reset":
        return _reset(args)
    from miner.cli.model_store import store_of
    from miner.config.config import MinerConfig

    store = store_of(MinerConfig(llm_backend=args.backend) if args.backend else MinerConfig())
    return _ACTIONS[args.action](store, args)


def _reset(args: argparse.Namespace) -> int:
    from miner.cli.gateway_client import reset_model

    name = reset_model(args.name, url=args.url, key=args.key)
    if args.json:
        _print_json({"reset": name})
    else:
        print(f"reset {name}: the next request starts its engine again")
    return 0


def _list(store: Store, args: argparse.Namespace) -> int:
    from miner.cli.output.errors import note

    rows = store.rows()
    for line in store.left_out:
        note(f"miner: Left out: {line}")
    if args.json:
        _print_json({"models": [row.as_dict() for row in rows]})
    elif rows:
        print(_table(rows))
    else:
        note("There are no models here. Get one with `miner models pull NAME`.")
    return 0


def _show(store: Store, args: argparse.Namespace) -> int:
    from miner.cli.output.tables import aligned, printable

    details = store.details(args.name)
    if args.json:
        _print_json({key.replace(" ", "_").lower(): value for key, value in details.items()})
        return 0
    print(
        aligned([(key, printable(_text(key, value), limit=500)) for key, value in details.items() if value is not None])
    )
    return 0


def _pull(store: Store, args: argparse.Namespace) -> int:
    from miner.cli.output.progress import PullBar

    with PullBar() as bar:
        name = store.pull(args.name, bar)
    if args.json:
        _print_json({"name": name})
    else:
        print(name)
    return 0


def _remove(store: Store, args: argparse.Namespace) -> int:
    name = store.remove(args.name)
    if args.json:
        _print_json({"removed": name})
    else:
        print(f"removed {name}")
    return 0


def _path(store: Store, args: argparse.Namespace) -> int:
    path = store.path(args.name)
    if args.json:
        _print_json({"path": path})
    else:
        print(path)
    return 0


_ACTIONS = {"list": _list, "show": _show, "pull": _pull, "rm": _remove, "path": _path}


def _table(rows: list[Row]) -> str:
    from miner.cli.output.tables import aligned, printable
    from miner.core.models.memory.verdict import readable

    lines = [("NAME", "SIZE", "QUANT", "PARAMS", "CONTEXT", "FITS NOW", "SOURCE")]
    lines += [
        (
            printable(row.name),
            readable(row.size),
            row.quantization or "?",
            _count(row.parameters),
            str(row.context_length or "?"),
            {True: "yes", False: "no", None: "?"}[row.fits],
            row.source,
        )
        for row in rows
    ]
    table = aligned(lines, right=frozenset({1, 3, 4})).split("\n")
    for number in range(len(rows), 0, -1):
        if rows[number - 1].problem:
            table.insert(number + 1, f"  {printable(rows[number - 1].problem or '')}")
    return "\n".join(table)


def _text(key: str, value: Any) -> str:
    from miner.core.models.memory.verdict import readable

    if key == "size":
        return f"{readable(value)} ({value} bytes)"
    if key == "parameters":
        return _count(value)
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _count(number: int | None) -> str:
    """A number of weights as people say it."""
    if not number:
        return "?"
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number / size:.3g} {unit}" if number < 1000 * size else f"{number // size} {unit}"
    return str(number)


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=2))
