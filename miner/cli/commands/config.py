"""`miner config`: check and show the settings and `miner.toml`, write a first one, and print its JSON Schema."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from miner.cli.output.tables import print_json
from miner.cli.parser import UsageError, add_config_option, add_json_option

if TYPE_CHECKING:
    pass

_EPILOG = """\
examples:
  miner config init
  miner config check
  miner config show
  miner config show LLAMACPP_PARALLEL
  miner config schema > miner.schema.json

init looks at this machine (models, engines, servers that run) and writes a
first miner.toml with comments. check names every wrong setting and key of the
file, with line, value and what is allowed; its notes are no errors. show prints
what is set and where: an option, the environment, .env:LINE, miner.toml:LINE.

The file is --config, else MINER_CONFIG, else ./miner.toml, else
miner/miner.toml in the user's config directory. Settings need none.

exit status: 0 success, 2 invalid file or usage
"""
_SHOW = """\
examples:
  miner config show
  miner config show --all
  miner config show small
  miner config show llamacpp_parallel
  miner config show --json --changed

Without a NAME: what the file and the environment set, and the settings that
people look for first. An invalid setting is shown with what it may be.
"""
_CHECK = """\
examples:
  miner config check
  miner config check --config other.toml --json

Nothing is started, and no server is asked.

exit status: 0 valid, 2 invalid, or there is no file
"""
_INIT = """\
examples:
  miner config init
  miner config init --yes -o other.toml
  miner config init --add

It asks only which of the servers that run here to serve, and only on a
terminal. A file that is there is never replaced without --force.
"""
_SCHEMA = """\
examples:
  miner config schema > miner.schema.json

For editors: they complete and check miner.toml by it (taplo, Even Better TOML).
"""


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Check and show the settings and miner.toml, the file that says what is served.",
        epilog=_EPILOG,
        usage="miner config check|show|schema|init [options]",
    )
    parser.set_defaults(run=run, flags={"config": "config"})
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", prog="miner config")
    check = actions.add_parser(
        "check", help="check file and settings", description="Check the file and all settings.", epilog=_CHECK
    )
    show = actions.add_parser(
        "show",
        help="show what is set, and where",
        description="Show what is in force, and where it is set.",
        epilog=_SHOW,
    )
    show.add_argument(
        "name", nargs="?", metavar="NAME", help="a model, backend, group or limits of the file, or a setting"
    )
    which = show.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_true", help="all settings, also those that have their defaults")
    which.add_argument("--changed", action="store_true", help="only settings that do not have their defaults")
    schema = actions.add_parser(
        "schema",
        help="print the JSON Schema of the file",
        description="Print the JSON Schema of the file.",
        epilog=_SCHEMA,
    )
    add_config_option(check)
    add_config_option(show)
    init = actions.add_parser(
        "init",
        help="write a first file for this machine",
        description="Write a first file for this machine.",
        epilog=_INIT,
    )
    init.add_argument("-o", "--output", metavar="FILE", default="miner.toml", help="default: miner.toml; -: print it")
    init.add_argument("--force", action="store_true", help="replace a file that is there")
    init.add_argument("--add", action="store_true", help="add what is missing to a file that is there; the rest stays")
    init.add_argument("--yes", action="store_true", help="ask nothing")
    for action in (check, show, schema, init):
        add_json_option(action)


def run(args: argparse.Namespace) -> int:
    """Run the action; return the exit status."""
    if args.action == "schema":
        from miner.config.file.json_schema import published_schema

        print_json(published_schema())
        return 0
    if args.action == "init":
        return _init(args)
    if args.action == "show":
        from miner.cli.configuration.show import show

        return show(args)
    from miner.cli.configuration.check import check

    return check(args)


def _init(args: argparse.Namespace) -> int:
    from miner.cli.configuration.init import add_missing, write_first

    if args.add and (args.force or args.output == "-"):
        raise UsageError("--add excludes --force and -o -.")
    if args.json and args.output == "-":
        raise UsageError("--json excludes -o -, which prints the file.")
    if args.add:
        return add_missing(args.output, as_json=args.json)
    return write_first(args.output, force=args.force, ask=not args.yes and not args.json, as_json=args.json)
