"""`miner launch`: set a program up for a running gateway, and start it."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miner.cli.guess import nearest
from miner.cli.output.errors import note
from miner.cli.parser import UsageError, add_json_option
from miner.errors import MinerError

if TYPE_CHECKING:
    from miner.cli.launch.node import Node
    from miner.cli.launch.setup import Client, Setup

_EPILOG = """\
examples:
  miner launch claude
  miner launch codex --model hf:unsloth/Qwen3-4B-GGUF
  miner launch opencode --print
  miner launch claude -- -p "What does this repository do?"
  miner launch --restore

The gateway (`miner serve`) must run; --url names another one. Without --model
the first model with tools and a context of 32768 tokens or more is used.
What follows -- goes to the program. Programs get their settings in variables,
or in files of ours; a file of your own that has to be changed is saved first,
and `miner launch --restore` puts it back. A key is taken from standard input
(--key -), MINER_KEY or MINER_API_KEYS, and never put on a command line.

exit status: that of the program; 1 the gateway cannot be reached, 2 invalid
usage, or the program is not installed
"""


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Set a coding agent or another program up for this node, and start it.",
        epilog=_EPILOG,
        usage="miner launch [PROGRAM] [options] [-- ARGUMENTS]",
    )
    parser.set_defaults(run=run, flags={}, arguments=[], own_key=True)
    parser.add_argument("program", nargs="?", metavar="PROGRAM", help="one of those that `miner launch` lists")
    add = parser.add_argument
    add("-m", "--model", metavar="NAME", help="the model; default: one with tools and a long context")
    add("--url", metavar="URL", help="the gateway (MINER_URL, else that of `miner serve` by the settings here)")
    add("--key", metavar="-", help="-: read the gateway's API key from standard input (MINER_KEY)")
    add("--print", action="store_true", help="show the configuration; write and start nothing")
    add("--restore", action="store_true", help="put changed files back and remove ours")
    add_json_option(parser)
    parser._option_string_actions["--json"].help = "print JSON instead of text: the list, or with --print or --restore"


def run(args: argparse.Namespace) -> int:
    """Set up and start a program; return its exit status."""
    from miner.cli.launch.files import restore, write
    from miner.cli.launch.registry import CLIENTS
    from miner.cli.output.tables import print_json

    if args.restore:
        if args.program is not None:
            raise UsageError("--restore takes no program: it restores all files.")
        done = restore()
        if args.json:
            print_json({"done": done})
        else:
            print("\n".join(done) or "Nothing was changed.")
        return 0
    if args.program is None:
        if args.json:
            print_json({"programs": [_entry(client) for client in CLIENTS.values()]})
        else:
            _list(CLIENTS)
        return 0
    client = CLIENTS.get(args.program)
    if client is None:
        hint = nearest(args.program, CLIENTS) or f"Programs: {', '.join(CLIENTS)}."
        raise UsageError(f"Unknown program {args.program!r}.", operator_hint=hint)
    if args.json and not args.print:
        raise UsageError(
            "With --json no program is started: what it prints would not be JSON.",
            operator_hint="--print --json shows what it would be started with.",
        )
    program = _installed(client)
    if program is None and not args.print:
        raise UsageError(
            f"{client.title} is not installed: there is no {client.programs[0]} on the PATH.",
            operator_hint=f"Install it ({client.install}), or see its configuration with --print.",
        )
    from miner.cli.launch.node import find_node

    node = find_node(url=args.url, key=_key(args.key, args.url), model=args.model)
    setup = client.setup(node)
    argv = [program or client.programs[0], *setup.argv[1:], *args.arguments]
    _advise(client, node)
    if args.print:
        if args.json:
            print_json(_plan(argv, setup, node))
        else:
            _print(argv, setup, node)
        return 0
    for line in [*write(setup.files), *setup.notes]:
        note(f"miner: {line}")
    return _start(argv, setup)


def _list(clients: dict[str, Client]) -> None:
    from miner.cli.output.style import columns
    from miner.cli.output.tables import aligned

    rows = [("NAME", "PROGRAM", "PATH")]
    rows += [(client.name, client.title, _installed(client) or "not installed") for client in clients.values()]
    print(aligned(rows, columns=columns(sys.stdout)))


def _entry(client: Client) -> dict[str, str | None]:
    return {"name": client.name, "title": client.title, "path": _installed(client), "install": client.install}


def _installed(client: Client) -> str | None:
    """The path of its executable."""
    return next((path for name in client.programs if (path := shutil.which(name))), None)


def _key(argument: str | None, url: str | None) -> str | None:
    """The gateway's key.

    Raises:
        UsageError: it is on the command line, where other users can read it.
    """
    if argument == "-":
        return sys.stdin.readline().strip() or None
    if argument is not None:
        raise UsageError(
            "--key takes only -, for standard input: other users of the machine can read command lines.",
            operator_hint="Or set MINER_KEY.",
        )
    from miner.cli.node import key_for
    from miner.config.secrets import secret_text
    from miner.gateway.settings import GatewaySettings

    key = key_for(url)
    if key is not None:
        return key
    keys = secret_text(GatewaySettings().api_keys) or ""
    return next((key.strip() for key in keys.split(",") if key.strip()), None)


def _advise(client: Client, node: Node) -> None:
    """Tell what will not work well."""
    from miner.cli.launch.node import AGENT_CONTEXT

    if not client.agent:
        return
    if node.context is not None and node.context < AGENT_CONTEXT:
        note(
            f"miner: {node.model} has a context of {node.context} tokens; {client.title} needs about {AGENT_CONTEXT}.\n"
            "  Its first request alone may not fit. Use a model that can do more, or raise LLAMACPP_CTX_SIZE."
        )
    if not node.tools:
        note(
            f"miner: The chat template of {node.model} has no tools; they are described in the prompt.\n"
            "  Models that were trained with tools do better."
        )


def _print(argv: list[str], setup: Setup, node: Node) -> None:
    """Show the configuration as a shell could use it, without the key."""
    for file in setup.files:
        print(f"# {file.path}{'' if file.owned else ' (changed; the present one is saved)'}")
        print(_without_key(file.text, node))
    removed = [name for name, value in setup.environment.items() if value is None and name in os.environ]
    if removed:
        print(f"unset {' '.join(removed)}")
    for name, value in setup.environment.items():
        if value is not None:
            print(f"export {name}={shlex.quote(_without_key(value, node))}")
    print(shlex.join([Path(argv[0]).name, *argv[1:]]))
    for line in setup.notes:
        print(f"# {line}")


def _plan(argv: list[str], setup: Setup, node: Node) -> dict[str, Any]:
    """What `_print` shows, for programs."""
    return {
        "model": node.model,
        "command": argv,
        "environment": {
            name: None if value is None else _without_key(value, node) for name, value in setup.environment.items()
        },
        "files": [
            {"path": str(file.path), "text": _without_key(file.text, node), "owned": file.owned} for file in setup.files
        ],
        "notes": list(setup.notes),
    }


def _without_key(text: str, node: Node) -> str:
    from miner.cli.launch.node import NO_KEY

    return text if node.key == NO_KEY else text.replace(node.key, "<your key>")


def _start(argv: list[str], setup: Setup) -> int:
    """Become the program; where that is not possible, run it and return its status."""
    environment = dict(os.environ)
    for name, value in setup.environment.items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        if sys.platform == "win32":
            return subprocess.run(argv, env=environment, check=False).returncode
        os.execve(argv[0], argv, environment)
    except OSError as error:
        raise MinerError(f"{argv[0]} cannot be started: {error.strerror}.") from error
