"""`miner models`: list, show, pull and remove models; reset a failed one of a gateway."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from miner.cli.output.errors import note
from miner.cli.output.progress import PullBar
from miner.cli.output.tables import aligned, print_json, printable
from miner.cli.parser import UsageError, add_config_option, add_gateway_options, add_json_option

if TYPE_CHECKING:
    from miner.cli.model_store import ModelStore, Row
    from miner.config.config import MinerConfig

_EPILOG = """\
examples:
  miner models list
  miner models pull hf:bartowski/Llama-3.2-1B-Instruct-GGUF
  miner models pull hf:unsloth/Qwen3-4B-GGUF:Q8_0
  miner models show demo
  miner models rm unsloth/Qwen3-4B-GGUF/Qwen3-4B-Q8_0
  miner models path demo
  miner models reset demo --url http://127.0.0.1:8088 --key - < key.txt

NAME is a path, a model's full name in MODELS_DIR or its last part (in any
case), hf:owner/repo[:quantization or file], or demo. An interrupted pull
resumes. HF_TOKEN, HF_ENDPOINT and proxy variables are used.
With LLM_BACKEND=ollama the models are those of the Ollama server. With a
miner.toml, `list` shows its models and what they are doing.
"""
_ACTIONS_WITH_NAME = (
    ("show", "show what a model's header says, and whether it fits into memory"),
    ("pull", "download a model into the models directory"),
    ("rm", "delete a model from the models directory; needs its full name"),
    ("path", "print the path of a model's file"),
)


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="List, show, pull and remove models.",
        epilog=_EPILOG,
        usage="miner models ACTION [NAME] [options]",
    )
    parser.set_defaults(run=run, action=None, name=None)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", prog="miner models")
    commands = [actions.add_parser("list", help="list the available models", description="List the available models.")]
    for action, line in _ACTIONS_WITH_NAME:
        command = actions.add_parser(action, help=line, description=f"{line[0].upper()}{line[1:]}.")
        command.add_argument("name", metavar="NAME", help="the model")
        commands.append(command)
    add_config_option(commands[0])
    commands[0].add_argument("--url", metavar="URL", help="a gateway that says what is loaded (with miner.toml)")
    commands[0].add_argument("--key", metavar="KEY", help="its API key with the admin right; -: from standard input")
    for command in commands:
        command.add_argument("--backend", metavar="NAME", help="llamacpp or ollama; default: LLM_BACKEND")
    reset = actions.add_parser(
        "reset",
        help="let a running gateway start a model's failed engine again",
        description="Let a running gateway start the failed engine of a model again at the next\nrequest.",
    )
    reset.add_argument("name", metavar="NAME", help="the model")
    add_gateway_options(reset)
    for command in commands:
        add_json_option(command)


def run(args: argparse.Namespace) -> int:
    """Run the action; return the exit status."""
    if args.action is None:
        raise UsageError("No action given.", operator_hint="Actions: list, show, pull, rm, path, reset.")
    if args.action == "reset":
        _reset(args)
    else:
        from miner.config.config import MinerConfig

        if args.action == "list" and not args.backend and _list_table(args):
            return 0
        store = _store_of(MinerConfig(llm_backend=args.backend) if args.backend else MinerConfig())
        _ACTIONS[args.action](store, args)
    return 0


def _list_table(args: argparse.Namespace) -> bool:
    """Print the models of `miner.toml`; return whether there is such a file."""
    from miner.config.config import MinerConfig
    from miner.config.file.find import find_config
    from miner.core.llms.registry import POOL, chosen_name

    settings = MinerConfig(config=args.config) if args.config else MinerConfig()
    path = find_config(settings.config)
    if path is None or not (args.config or chosen_name(settings) == POOL):
        if args.url is not None:
            raise UsageError(
                "--url: there is no miner.toml.", operator_hint="`miner ps --url` shows what a gateway has."
            )
        return False
    from miner.cli.commands.ps import table_of
    from miner.cli.table import table_models

    models, source = table_models(settings, path, args.url, args.key)
    if args.json:
        print_json({"config": str(path), "models": models})
    else:
        note(f"{path}: {len(models)} models. {source}")
        print(table_of(models))
    return True


def _store_of(settings: MinerConfig) -> ModelStore:
    if settings.llm_backend == "ollama":
        from miner.cli.ollama_store import OllamaStore

        return OllamaStore(settings)
    if settings.llm_backend == "llamacpp":
        from miner.cli.local_store import LocalStore

        return LocalStore(settings)
    raise UsageError(
        f"`miner models` does not support the backend {settings.llm_backend!r}, which manages its models itself.",
        operator_hint="Use --backend llamacpp or --backend ollama.",
    )


def _reset(args: argparse.Namespace) -> None:
    from miner.cli.gateway_client import reset_model

    name = reset_model(args.name, url=args.url, key=args.key)
    _print(args, "reset", name, f"reset {name}: the next request starts its engine again")


def _list(store: ModelStore, args: argparse.Namespace) -> None:
    rows = store.rows()
    for line in store.skipped:
        note(f"miner: Skipped: {line}")
    if args.json:
        from dataclasses import asdict

        print_json({"models": [asdict(row) for row in rows]})
    elif rows:
        print(_table(rows))
    else:
        note("There are no models. Get one with `miner models pull NAME`.")


def _show(store: ModelStore, args: argparse.Namespace) -> None:
    details = store.details(args.name)
    if args.json:
        print_json({key.replace(" ", "_").lower(): value for key, value in details.items()})
    else:
        known = [(key, _text(key, value)) for key, value in details.items() if value is not None]
        print(aligned([(key, printable(text, limit=500)) for key, text in known]))


def _pull(store: ModelStore, args: argparse.Namespace) -> None:
    with PullBar() as bar:
        name = store.pull(args.name, bar)
    _print(args, "name", name, name)


def _remove(store: ModelStore, args: argparse.Namespace) -> None:
    name = store.remove(args.name)
    _print(args, "removed", name, f"removed {name}")


def _path(store: ModelStore, args: argparse.Namespace) -> None:
    path = store.path(args.name)
    _print(args, "path", path, path)


def _print(args: argparse.Namespace, key: str, value: str, text: str) -> None:
    if args.json:
        print_json({key: value})
    else:
        print(text)


_ACTIONS = {"list": _list, "show": _show, "pull": _pull, "rm": _remove, "path": _path}


def _table(rows: list[Row]) -> str:
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
    heading, *table = aligned(lines, right=frozenset({1, 3, 4})).split("\n")
    shown = [heading]
    for row, line in zip(rows, table, strict=True):
        shown.append(line)
        if row.problem:
            shown.append(f"  {printable(row.problem)}")
    return "\n".join(shown)


def _text(key: str, value: Any) -> str:
    from miner.core.models.memory.verdict import readable

    if key == "size":
        return f"{readable(value)} ({value} bytes)"
    if key == "parameters":
        return _count(value)
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _count(number: int | None) -> str:
    """Format a parameter count, such as 1.24 B."""
    if not number:
        return "?"
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number / size:.3g} {unit}" if number < 1000 * size else f"{number // size} {unit}"
    return str(number)
