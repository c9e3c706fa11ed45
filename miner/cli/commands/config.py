"""`miner config`: check, show and write `miner.toml`, and print its JSON Schema."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miner.cli.guess import nearest
from miner.cli.output.errors import note
from miner.cli.output.tables import aligned, print_json, printable
from miner.cli.parser import UsageError, add_config_option, add_json_option, overrides
from miner.errors import ConfigError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig
    from miner.config.file.problems import Problem
    from miner.config.file.read import LoadedConfig

_EPILOG = """\
examples:
  miner config init
  miner config check --config miner.toml
  miner config show small
  miner config schema > miner.schema.json

init writes a first file for this machine: its models, its engines, and servers
that run here. check names file, line, key, value and what is allowed; notes are
no errors. show prints all values in force and where each comes from.

The file is --config, else MINER_CONFIG, else ./miner.toml, else
miner/miner.toml in the user's config directory.

exit status: 0 success, 2 invalid file or usage
"""


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Check, show and write miner.toml, the file that says what is served.",
        epilog=_EPILOG,
        usage="miner config check|show|schema|init [options]",
    )
    parser.set_defaults(run=run, flags={"config": "config"})
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", prog="miner config")
    check = actions.add_parser("check", help="check a file", description="Check a file.")
    show = actions.add_parser(
        "show", help="show all values and where they come from", description="Show all values and where they come from."
    )
    show.add_argument("name", nargs="?", metavar="NAME", help="a model, backend or group, or limits; default: all")
    actions.add_parser(
        "schema", help="print the JSON Schema of the file", description="Print the JSON Schema of the file."
    )
    for action in (check, show):
        add_config_option(action)
        add_json_option(action)
    init = actions.add_parser(
        "init", help="write a first file for this machine", description="Write a first file for this machine."
    )
    init.add_argument("-o", "--output", metavar="FILE", default="miner.toml", help="default: miner.toml; -: print it")
    init.add_argument("--force", action="store_true", help="replace a file that is there")
    init.add_argument("--add", action="store_true", help="add what is missing to a file that is there; the rest stays")
    init.add_argument("--yes", action="store_true", help="ask nothing")


def run(args: argparse.Namespace) -> int:
    """Run the action; return the exit status."""
    if args.action is None:
        raise UsageError("No action given.", operator_hint="Actions: check, show, schema, init.")
    if args.action == "schema":
        from miner.config.file.json_schema import published_schema

        print_json(published_schema())
        return 0
    if args.action == "init":
        return _init(args)
    return _check(args) if args.action == "check" else _show(args)


def _settings(args: argparse.Namespace) -> tuple[MinerConfig, Path]:
    """The settings, and the file that they mean.

    Raises:
        ConfigError: there is none.
    """
    from miner.config.config import MinerConfig
    from miner.config.file.find import config_paths, find_config

    settings = MinerConfig(**overrides(args))
    path = find_config(settings.config)
    if path is None:
        places = " nor ".join(map(str, config_paths()))
        raise ConfigError(
            f"There is no configuration file: neither {places} is there.",
            operator_hint="Name one with --config or MINER_CONFIG, or write one: `miner config init`.",
        )
    return settings, path


def _check(args: argparse.Namespace) -> int:
    from miner.cli.configuration.machine_check import check_here
    from miner.config.file.problems import ConfigFileError, shown_path
    from miner.config.file.read import read_config

    settings, path = _settings(args)
    file = shown_path(path)
    try:
        loaded = read_config(path)
        notes = [*loaded.notes, *check_here(loaded, settings)]
    except ConfigError as error:
        if not args.json:
            raise
        problems = error.problems if isinstance(error, ConfigFileError) else ()
        found = [_described(problem, file) for problem in problems]
        other = {"message": error.message, "hint": error.hints}
        print_json({"file": file, "valid": False, "errors": found or [other], "notes": []})
        note(f"miner: {error}")
        return 2
    notes.sort(key=lambda each: each.line or 0)
    if args.json:
        described = [_described(each, file) for each in notes]
        print_json({"file": file, "valid": True, "errors": [], "notes": described, **_counts(loaded)})
        return 0
    counts = ", ".join(f"{count} {name if count != 1 else name[:-1]}" for name, count in _counts(loaded).items())
    print(f"{file} is valid: {counts}.")
    for each in notes:
        print(f"note: {each.located(file)} {each.hint or ''}".rstrip())
    return 0


def _counts(loaded: LoadedConfig) -> dict[str, int]:
    content = loaded.content
    return {"models": len(content.models), "backends": len(content.backends), "groups": len(content.groups)}


def _described(problem: Problem, file: str) -> dict[str, Any]:
    return {
        "file": file, "line": problem.line, "key": problem.key or None, "value": problem.value,
        "message": problem.message, "hint": problem.hint,
    }  # fmt: skip


def _show(args: argparse.Namespace) -> int:
    from miner.cli.configuration.effective import tables
    from miner.config.file.problems import key_text, shown_path, toml_text
    from miner.config.file.read import read_config

    settings, path = _settings(args)
    loaded = read_config(path)
    found = list(tables(loaded, settings))
    if args.name is not None:
        found = [each for each in found if args.name in each[0]]
        if not found:
            names = [*loaded.content.models, *loaded.content.backends, *loaded.content.groups]
            hint = nearest(args.name, names) or f"It has: {', '.join(names) or 'none'}."
            raise UsageError(f"{shown_path(path)} has no model, backend or group {args.name!r}.", operator_hint=hint)
    if args.json:
        shown: dict[str, Any] = {"file": str(path)}
        for (kind, *rest), values in found:
            table = {value.key: {"value": value.value, "from": value.source} for value in values}
            shown.setdefault(str(kind), {}).update({rest[0]: table} if rest else table)
        print_json(shown)
        return 0
    print(f"# {path}")
    for place, values in found:
        rows = [
            (
                f"  {value.key}",
                "-" if value.value is None else printable(toml_text(value.value), limit=60),
                value.source,
            )
            for value in values
        ]
        print(f"\n[{key_text(place)}]\n{aligned(rows) if rows else ''}")
    return 0


def _init(args: argparse.Namespace) -> int:
    from miner.cli.configuration.init import add_missing, write_first

    if args.add:
        if args.force or args.output == "-":
            raise UsageError("--add excludes --force and -o -.")
        return add_missing(args.output)
    return write_first(args.output, force=args.force, ask=not args.yes)
