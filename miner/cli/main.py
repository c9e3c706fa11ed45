"""The command `miner`: parses the command line and runs the subcommand.

Only the module of that subcommand is imported, so `miner --help` imports no engine, no HTTP client and no settings. A
subcommand is a module with `add_parser(new_parser)`, where `new_parser` takes the arguments of `ArgumentParser`; the
parser's default `run` is a function from the parsed arguments to the exit status, which may raise MinerError.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any

from miner import __version__
from miner.cli.output.errors import drop_output, report, report_unexpected
from miner.cli.parser import EXIT_STATUS, CommandParser, UsageError, chosen, name_flags, nearest, unexpected
from miner.core._typing import override
from miner.errors import MinerError

COMMANDS = {
    "generate": ("miner.cli.commands.generate", "stream a model's response to a prompt"),
    "backends": ("miner.cli.commands.backends", "list backends, and why one is unavailable"),
    "models": ("miner.cli.commands.models", "list, show, pull and remove models"),
    "fit": ("miner.cli.commands.fit", "check whether a model fits into memory"),
    "serve": ("miner.cli.commands.serve", "serve a backend over the OpenAI, Ollama and Anthropic APIs"),
    "config": ("miner.cli.commands.config", "check, show and write miner.toml: what is served"),
    "ps": ("miner.cli.commands.ps", "show what a running gateway has loaded"),
    "load": ("miner.cli.commands.load", "load a model of a running gateway"),
    "unload": ("miner.cli.commands.unload", "unload a model once its requests are done"),
    "stop": ("miner.cli.commands.stop", "stop a model now"),
    "launch": ("miner.cli.commands.launch", "set a coding agent up for this node, and start it"),
    "import": ("miner.cli.commands.import_", "write a miner.toml from another tool's configuration"),
    "keys": ("miner.cli.commands.keys", "create, list and revoke API keys of the gateway"),
    "vllm": ("miner.cli.commands.vllm", "print or run the command that starts a vLLM server"),
}
"""Name -> module, line of help."""
_PASSES_ON = ("launch",)
"""Commands that start a program with the arguments after `--`."""

_DESCRIPTION = "One interface over the LLM engines that you run: llama.cpp, Ollama, vLLM."
_EXAMPLES = f"""\
examples:
  miner generate "Why is the sky blue?"
  miner generate --backend ollama --model llama3.2 - < prompt.txt
  miner backends
  miner models pull hf:bartowski/Llama-3.2-1B-Instruct-GGUF
  miner vllm --model Qwen/Qwen2.5-0.5B-Instruct --run

Settings come from the environment and from .env in the working directory;
.env.example lists them all. `miner COMMAND --help` describes a command.

{EXIT_STATUS}"""


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status (`parser.EXIT_STATUS`)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _open_closed_streams()
    status = _run(arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has exited: exit silently, like a program killed by SIGPIPE.
        drop_output()
        status = 141
    except OSError as error:
        drop_output()
        status = report(MinerError(f"The output cannot be written: {error.strerror}."))
    return status


def _run(arguments: list[str]) -> int:
    debug, args = False, None
    try:
        args = _parse(arguments)
        debug = getattr(args, "debug", False)
        if debug:
            _log_debug()
        status: int = args.run(args)
    except MinerError as error:
        if args is not None:
            name_flags(error, args)
        if debug:
            report_unexpected(error, debug=True)
        return report(error, as_json=_wants_json(arguments))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        drop_output()
        return 141
    except SystemExit as stop:  # argparse has printed its help
        return stop.code if isinstance(stop.code, int) else 0
    except Exception as error:  # noqa: BLE001  (the top of the command line: one line instead of a traceback)
        return report_unexpected(error, debug=debug)
    return status


def _open_closed_streams() -> None:
    """Open /dev/null for an output that is closed (`>&-`), so that no socket gets its descriptor."""
    if sys.stdout is None:
        sys.stdout = open(os.open(os.devnull, os.O_WRONLY), "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.open(os.devnull, os.O_WRONLY), "w", closefd=False)  # noqa: SIM115


def _parse(arguments: list[str]) -> argparse.Namespace:
    # prog is set: under `python -m miner` it would be "__main__.py".
    parser = CommandParser(prog="miner", description=_DESCRIPTION, epilog=_EXAMPLES, usage="miner COMMAND [options]")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", prog="miner")
    typed = next((word for word in arguments if not word.startswith("-")), None)
    for name, (module, line) in COMMANDS.items():
        if name == typed:
            import_module(module).add_parser(partial(subparsers.add_parser, name, help=line))
        else:
            subparsers.add_parser(name, help=line, add_help=False)
    if typed is not None and typed not in COMMANDS:
        raise UsageError(
            f"Unknown command {typed!r}.",
            operator_hint=nearest(typed, COMMANDS) or f"{_commands()} See `miner --help`.",
        )
    own, theirs = _split(arguments) if typed in _PASSES_ON else (arguments, [])
    args, rest = parser.parse_known_args(own)
    if theirs:
        args.arguments = theirs
    if rest:
        raise unexpected(rest, chosen(parser, args))
    if args.command is None:
        raise UsageError("No command given.", operator_hint=f"{_commands()} See `miner --help`.")
    return args


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments before and after `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:end], arguments[end + 1 :]


def _commands() -> str:
    return f"Commands: {', '.join(COMMANDS)}."


class _Version(argparse.Action):
    """Prints the version and exits."""

    @override
    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        print(f"miner {__version__}")
        parser.exit()


def _wants_json(arguments: list[str]) -> bool:
    """Whether --json is in the arguments, even if the rest could not be parsed."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


def _log_debug() -> None:
    import logging

    logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(name)s %(levelname)s: %(message)s")
