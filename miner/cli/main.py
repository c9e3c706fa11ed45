"""The command `miner`: parses the command line and runs the subcommand.

Only the module of that subcommand is imported, so `miner --help` imports no engine, no HTTP client and no settings. A
subcommand is a module with `add_parser(new_parser)`, where `new_parser` takes the arguments of `ArgumentParser`; the
parser's default `run` is a function from the parsed arguments to the exit status, which may raise MinerError.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import signal
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any

from miner import __version__
from miner.cli import verbosity
from miner.cli.guess import meant
from miner.cli.output.errors import drop_output, report, report_interrupted, report_unexpected
from miner.cli.parser import EXIT_STATUS, CommandParser, UsageError, chosen, missing_action, name_flags, unexpected
from miner.cli.terminated import Terminated, terminated_like_interrupted
from miner.cli.typed_options import name_as_typed
from miner.core._typing import override
from miner.errors import ConfigError, MinerError, RequestError

COMMANDS = {
    "chat": ("miner.cli.commands.chat", "chat with a model in the terminal", "Models"),
    "run": ("miner.cli.commands.run", "chat with a model by its name, or one prompt", "Models"),
    "generate": ("miner.cli.commands.generate", "stream a model's response to a prompt", "Models"),
    "embed": ("miner.cli.commands.embed", "compute the vectors of texts", "Models"),
    "rerank": ("miner.cli.commands.rerank", "sort documents by relevance to a query", "Models"),
    "tokenize": ("miner.cli.commands.tokenize", "count the tokens of a text", "Models"),
    "pull": ("miner.cli.commands.pull", "download a model", "Models"),
    "list": ("miner.cli.commands.list", "list models", "Models"),
    "show": ("miner.cli.commands.show", "show what a model is and can do", "Models"),
    "cp": ("miner.cli.commands.cp", "give a model another name", "Models"),
    "rm": ("miner.cli.commands.rm", "delete models", "Models"),
    "models": ("miner.cli.commands.models", "list, show, pull and remove models", "Models"),
    "fit": ("miner.cli.commands.fit", "check whether a model fits into memory", "Models"),
    "bench": ("miner.cli.commands.bench", "measure a model under load: latency, tokens a second", "Models"),
    "serve": ("miner.cli.commands.serve", "serve OpenAI, Ollama and Anthropic clients", "Node"),
    "ps": ("miner.cli.commands.ps", "show what a running gateway has loaded", "Node"),
    "top": ("miner.cli.commands.top", "show what a running gateway does, live", "Node"),
    "logs": ("miner.cli.commands.logs", "show a gateway's log, or an engine's", "Node"),
    "load": ("miner.cli.commands.load", "load a model of a running gateway", "Node"),
    "unload": ("miner.cli.commands.unload", "unload a model once its requests are done", "Node"),
    "stop": ("miner.cli.commands.stop", "stop a model now", "Node"),
    "keys": ("miner.cli.commands.keys", "create, list and revoke API keys of the gateway", "Node"),
    "launch": ("miner.cli.commands.launch", "set a coding agent up for this node, and start it", "Node"),
    "config": ("miner.cli.commands.config", "show and check settings, write a miner.toml", "Set-up"),
    "import": ("miner.cli.commands.import_", "write a miner.toml from another tool's", "Set-up"),
    "doctor": ("miner.cli.commands.doctor", "find what is wrong, and the line that fixes it", "Set-up"),
    "completion": ("miner.cli.commands.completion", "complete commands with TAB in bash, zsh, fish", "Set-up"),
    "version": ("miner.cli.commands.version", "versions of miner, Python and the engines", "Set-up"),
    "backends": ("miner.cli.commands.backends", "list backends, and why one is unavailable", "Set-up"),
    "vllm": ("miner.cli.commands.vllm", "print or run the command of a vLLM server", "Set-up"),
}
"""Name -> module, line of help, group in the help."""
_PASSES_ON = ("launch",)
"""Commands that start a program with the arguments after `--`."""
_WITH_VALUE = ("--log-level",)
"""Options before the command that take a value."""

_MAIN_OPTIONS = ("--log-level", "--verbose", "-q", "--quiet", "--debug", "-h", "--help", "-V", "--version")
"""Options before the command, besides -v."""

_EXTRAS = {
    "aiohttp": "serve", "multidict": "serve", "prometheus_client": "serve", "tomlkit": "serve", "uvloop": "serve",
    "prompt_toolkit": "cli", "rich": "cli", "shtab": "cli", "yaml": "import", "opentelemetry": "otel",
    "huggingface_hub": "llamacpp", "xllamacpp": "llamacpp",
}  # fmt: skip
"""Package -> the extra that brings it, for a command that meets it missing."""
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What the writing of an output fails with: a full disk or quota, the largest file allowed, a terminal that is gone."""

_VAGUE = re.compile(r"(?<=: )must be (?:a valid|greater|less) .*?(?=(?: \(\d+ more\))?\.$)")

_DESCRIPTION = "One interface over the LLM engines that you run: llama.cpp, Ollama, vLLM."
_EXAMPLES = f"""\
examples:
  miner chat
  git diff | miner generate "Review this."
  miner pull hf:bartowski/Llama-3.2-1B-Instruct-GGUF
  miner config init && miner serve

Settings come from the environment and from .env in the working directory:
`miner config show --all`. `miner COMMAND --help` describes a command.

{EXIT_STATUS}"""


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status (`parser.EXIT_STATUS`)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _open_closed_streams()
    if _wants_json(arguments):
        with terminated_like_interrupted():
            status = _run(arguments)
    else:
        status = _run(arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has exited: exit silently, like a program killed by SIGPIPE.
        drop_output()
        status = 141
    except OSError as error:
        drop_output()
        status = _report_unwritable(error)
    return status


def _run(arguments: list[str]) -> int:
    debug, args = False, None
    try:
        args = _parse(arguments)
        debug = getattr(args, "debug", False)
        verbosity.apply(args)
        if hasattr(args, "url"):
            from miner.cli.node import settle_node

            settle_node(args)
        status: int = args.run(args)
    except MinerError as error:
        if isinstance(error, ConfigError):
            _say_what_is_allowed(error)
        if args is not None:
            name_flags(error, args)
            if isinstance(error, (ConfigError, RequestError, UsageError)):  # others may quote an engine's options
                name_as_typed(error, args.typed)
        if debug:
            report_unexpected(error, debug=True)
        return report(error, as_json=_wants_json(arguments))
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None or debug:
            return report_unexpected(error, debug=debug)
        needed = ConfigError(
            f"`miner {' '.join(_words_of(args))}` needs the package {error.name}, which is not installed.",
            operator_hint=f'Install it with: pip install "llm-service-backends[{extra}]"',
        )
        return report(needed, as_json=_wants_json(arguments))
    except KeyboardInterrupt as stop:
        number = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
        return report_interrupted(number) if _wants_json(arguments) else 128 + number
    except BrokenPipeError:
        drop_output()
        return 141
    except SystemExit as stop:  # argparse has printed its help
        return stop.code if isinstance(stop.code, int) else 0
    except Exception as error:  # noqa: BLE001  (the top of the command line: one line instead of a traceback)
        if isinstance(error, OSError) and error.filename is None and _is_of_output(error):
            drop_output()
            return _report_unwritable(error)
        return report_unexpected(error, debug=debug)
    return status


def _words_of(args: argparse.Namespace | None) -> list[str]:
    """The command, and its action."""
    return [word for name in ("command", "action") if isinstance(word := getattr(args, name, None), str)]


def _is_of_output(error: OSError) -> bool:
    """Whether it can only be about an output: output is written at once where it is longer than Python's buffer, or
    where there is none (PYTHONUNBUFFERED).
    """
    if error.errno != errno.EBADF:
        return error.errno in _UNWRITABLE
    try:
        os.write(sys.stdout.fileno(), b"")
    except OSError as again:  # open for reading only
        return again.errno == errno.EBADF
    return False


def _report_unwritable(error: OSError) -> int:
    return report(MinerError(f"The output cannot be written: {error.strerror}."))


def _say_what_is_allowed(error: ConfigError) -> None:
    """Complete the error about a setting whose reason is less than all that it may be."""
    found = _VAGUE.search(error.message)
    if found is not None:
        from miner.cli.configuration.settings import allowed_for

        allowed = allowed_for(error.message.partition("=")[0])
        if allowed is not None:
            error.message = f"{error.message[: found.start()]}must be {allowed}{error.message[found.end() :]}"


def _open_closed_streams() -> None:
    """Open /dev/null for each stream that is closed (`<&-`, `>&-`), so that no file or socket gets its descriptor: a
    library or a child process would read it as its input, or write messages into it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest one that is free: this
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def all_parsers() -> argparse.ArgumentParser:
    """The parser with those of all commands, for shell completion. Imports all their modules."""
    parser, subparsers = _main_parser()
    for name, (module, line, _) in COMMANDS.items():
        import_module(module).add_parser(partial(subparsers.add_parser, name, help=line))
    return parser


def _main_parser() -> tuple[argparse.ArgumentParser, Any]:
    """The parser without commands, and where they are added."""
    # prog is set: under `python -m miner` it would be "__main__.py".
    parser = _MainParser(prog="miner", description=_DESCRIPTION, epilog=_EXAMPLES, usage="miner COMMAND [options]")
    parser.add_argument("-V", "--version", action=_Version, nargs=0, help="print the version and exit")
    subparsers = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", prog="miner", parser_class=CommandParser
    )
    return parser, subparsers


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser, subparsers = _main_parser()
    place = _place_of_command(arguments)
    typed = None if place is None else arguments[place]
    if place is not None and typed == "help":
        # `miner help serve`, as git and docker have it.
        arguments = [*arguments[:place], *arguments[place + 1 :], "--help"]
        typed = next((word for word in arguments[place:] if not word.startswith("-")), None)
    for name, (module, line, _) in COMMANDS.items():
        if name == typed:
            import_module(module).add_parser(partial(subparsers.add_parser, name, help=line))
        else:
            subparsers.add_parser(name, add_help=False)
    if typed is not None and typed not in COMMANDS:
        raise _unknown_command(typed, arguments)
    own, theirs = _split(arguments) if typed in _PASSES_ON else (arguments, [])
    args: argparse.Namespace
    args, rest = parser.parse_known_args(own)
    if theirs:
        args.arguments = theirs
    command = chosen(parser, args)
    if command is not parser and (missing := missing_action(command, rest)) is not None:
        raise missing
    if rest:
        error = unexpected(rest, command)
        if args.command is None and rest[0] == "--json":  # nearer to --version than to anything else here
            error.operator_hint = "Options stand after their command: `miner COMMAND --json ...`."
        name_as_typed(error, args.typed)
        raise error
    if args.command is None:
        parser.print_help()
        parser.exit()
    return args


def _place_of_command(arguments: list[str]) -> int | None:
    """Where the first word is that is no option, nor the value of one."""
    value = False
    for place, word in enumerate(arguments):
        if not word.startswith("-") and not value:
            return place
        value = word in _WITH_VALUE
    return None


def _unknown_command(typed: str, arguments: list[str]) -> UsageError:
    misplaced = next((word for word in arguments[: arguments.index(typed)] if _is_no_option_here(word)), None)
    if misplaced is not None:
        return UsageError(
            f"Unknown option {misplaced.partition('=')[0]} before a command.",
            operator_hint=f"Options stand after their command: `miner COMMAND {misplaced} ...`.",
        )
    words = [word for word in arguments if not word.startswith("-")]
    guess = meant(typed, COMMANDS)
    if len(words) > 2 and guess is None:
        return UsageError(
            f"Unknown command {typed!r}.", operator_hint=f"As a prompt: miner generate {' '.join(words)[:60]!r}"
        )
    hint = f"Did you mean `miner {guess}`?" if guess else f"Commands: {', '.join(COMMANDS)}. See `miner --help`."
    return UsageError(f"Unknown command {typed!r}.", operator_hint=hint)


def _is_no_option_here(word: str) -> bool:
    name = word.partition("=")[0]
    return word.startswith("-") and name not in _MAIN_OPTIONS and not re.fullmatch(r"-v+", word)


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments before and after `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:end], arguments[end + 1 :]


class _MainParser(CommandParser):
    """The parser of `miner`, whose help has the commands in groups."""

    @override
    def format_help(self) -> str:
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, [], [])
        formatter.add_text(self.description)
        for group in dict.fromkeys(group for _, _, group in COMMANDS.values()):
            formatter.start_section(group)
            # Each as an action: argparse aligns and wraps them as it does options.
            formatter.add_arguments(
                argparse.Action([], dest=name, metavar=name, help=line)
                for name, (_, line, of) in COMMANDS.items()
                if of == group
            )
            formatter.end_section()
        for section in self._action_groups:
            if section.title != "commands":
                formatter.start_section(section.title)
                formatter.add_arguments(section._group_actions)
                formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()


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
