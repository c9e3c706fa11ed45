"""argparse with errors that are raised, no abbreviated options, and help that fits 80 columns.

`miner --help` loads this module, so it imports little beyond argparse.
"""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any, NoReturn

from miner.cli.guess import meant, nearest
from miner.cli.help import HelpFormatter, help_of, print_help, usage_of
from miner.cli.typed_options import name_as_typed, typed_forms
from miner.cli.verbosity import add_verbosity_options
from miner.core._typing import override
from miner.errors import MinerError

EXIT_STATUS = """\
exit status:
  0    success
  1    the engine or the connection to it failed before any output
  2    invalid usage, setting or request
  3    the engine failed after part of the output was printed
  130  interrupted by Ctrl-C (143: by SIGTERM)
  141  the reader of the output is gone (broken pipe)
"""


class UsageError(MinerError):
    """Invalid command line; exit status 2."""

    code = "usage_error"


_MAY_BE_EMPTY = ("system", "suffix", "stop")
"""Arguments of options that may be empty, or that the library checks."""
_NAMES = ("NAME", "NEW_NAME", "MODEL", "PROGRAM")
"""What arguments without an option stand for that must not be empty either."""


class CommandParser(argparse.ArgumentParser):
    """The parser of `miner` and of each of its commands."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", HelpFormatter)
        settings.setdefault("allow_abbrev", False)
        if sys.version_info >= (3, 14):
            settings.setdefault("color", False)  # `print_help` does it, the same for all versions
        super().__init__(**settings)
        self._positionals.title = "arguments"
        add_verbosity_options(self)

    words: str | None = None
    """Where all arguments go that are no options (`add_words`); None: argparse's positional arguments."""

    @override
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; `typed` of the namespace is how errors name the options (`typed_forms`)."""
        arguments, words = sys.argv[1:] if args is None else args, None
        if self.words is not None:
            from miner.cli.words import take_words

            arguments, words = take_words(self, arguments)
        forms = typed_forms(self, arguments)
        try:
            namespace, rest = super().parse_known_args(arguments, namespace)
        except UsageError as error:
            name_as_typed(error, forms)
            raise
        if self.words is not None:
            setattr(namespace, self.words, words)
        namespace.typed = {**forms, **getattr(namespace, "typed", {})}  # a command's own come before ours
        return namespace, rest

    @override
    def format_usage(self) -> str:
        return f"usage: {usage_of(self)}\n"

    @override
    def format_help(self) -> str:
        return help_of(self)

    @override
    def print_help(self, file: Any = None) -> None:
        print_help(self.format_help(), file)

    @override
    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """The values of an option or of a NAME.

        Raises:
            UsageError: one is empty or blank, as that of a shell's variable that is not set.
        """
        named = action.option_strings or action.metavar in _NAMES
        blank = next((text for text in arg_strings if not text.strip()), None)
        if named and blank is not None and action.dest not in _MAY_BE_EMPTY:
            name = "/".join(action.option_strings) or action.metavar  # which of them is typed, `name_as_typed` says
            raise UsageError(f"{name} {blank!r}: must not be empty.", operator_hint=f"See `{self.prog} --help`.")
        return super()._get_values(action, arg_strings)

    @override
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message[:1].upper()}{message[1:]}.", operator_hint=f"See `{self.prog} --help`.")

    @override
    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Check a choice, such as an action.

        Raises:
            UsageError: it is none of them; with the one that was meant.
        """
        if action.choices is None or value in action.choices:
            return
        guess = meant(str(value), map(str, action.choices))
        if isinstance(action, argparse._SubParsersAction):
            kind = str(action.metavar or "action").lower()
            known = f"{kind.capitalize()}s: {', '.join(map(str, action.choices))}."
            raise UsageError(
                f"Unknown {kind} {value!r} of `{self.prog}`.",
                operator_hint=f"Did you mean `{self.prog} {guess}`?" if guess else known,
            )
        name = "/".join(action.option_strings) or action.metavar or action.dest
        raise UsageError(
            f"{name} {value}: must be one of {', '.join(map(str, action.choices))}.",
            operator_hint=f"Did you mean {guess}?" if guess else f"See `{self.prog} --help`.",
        )


def unexpected(rest: list[str], parser: argparse.ArgumentParser) -> UsageError:
    """The error for arguments that a command does not take, with the nearest option."""
    first = rest[0]
    if not first.startswith("-"):
        return UsageError(f"Unexpected argument {first!r}.", operator_hint=_place_for(first, parser))
    name = first.partition("=")[0]
    if name in parser._option_string_actions:
        value = "" if parser._option_string_actions[name].nargs == 0 or "=" in first else " ..."
        return UsageError(
            f"{name} is an option of `{parser.prog}`, and stands before it.",
            operator_hint=f"Options stand after their command: `{parser.prog} {first}{value}`.",
        )
    hint = nearest(name, parser._option_string_actions) or f"See `{parser.prog} --help`."
    if isinstance(parser, CommandParser) and parser.words is not None:
        hint += " Words that begin with a dash stand after `--`."
    return UsageError(f"Unknown option {name}.", operator_hint=hint)


def missing_action(parser: argparse.ArgumentParser, rest: list[str]) -> UsageError | None:
    """The error for a command without its action; None: it needs none, or `rest`, what it does not take, is worse: an
    option that none of its actions has.
    """
    actions = next((each for each in parser._actions if isinstance(each, argparse._SubParsersAction)), None)
    if actions is None:
        return None
    known = {option for each in actions.choices.values() for option in each._option_string_actions}
    if any(option.startswith("-") and option.partition("=")[0] not in known for option in rest):
        return None
    kind = str(actions.metavar or "action").lower()
    return UsageError(f"No {kind} given.", operator_hint=f"{kind.capitalize()}s: {', '.join(actions.choices)}.")


def _place_for(word: str, parser: argparse.ArgumentParser) -> str:
    """Where a word belongs that a command does not take."""
    takes = [str(action.metavar or action.dest) for action in parser._actions if not action.option_strings]
    options = parser._option_string_actions
    if word.endswith((".toml", ".yaml", ".json")) and "--config" in options:
        return f"Did you mean --config {word}?"
    if takes:
        return f"`{parser.prog}` takes only {' '.join(takes)}. Quote an argument that has spaces."
    if "--model" in options:
        return f"`{parser.prog}` takes options only. A model is named with --model {word}."
    return f"`{parser.prog}` takes options only: see `{parser.prog} --help`."


def chosen(parser: argparse.ArgumentParser, args: argparse.Namespace) -> argparse.ArgumentParser:
    """The parser of the command that was typed, or of its action."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            name = getattr(args, action.dest, None)
            if name in action.choices:
                return chosen(action.choices[name], args)
    return parser


def add_words(parser: argparse.ArgumentParser, dest: str, *, metavar: str, help: str) -> None:
    """Add an argument of any number of words, before, between and after the options; after `--` all are words."""
    assert isinstance(parser, CommandParser)
    parser.add_argument(dest, nargs="*", metavar=metavar, help=help)
    parser.words = dest


def add_config_option(parser: argparse.ArgumentParser) -> None:
    """Add --config, which sets `MinerConfig.config`."""
    parser.add_argument("--config", metavar="FILE", help="what is served (MINER_CONFIG, miner.toml)")


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that flags set: those of the parser's default `flags`, setting -> argument."""
    values = {setting: getattr(args, argument, None) for setting, argument in args.flags.items()}
    return {setting: value for setting, value in values.items() if value is not None}


def name_flags(error: MinerError, args: argparse.Namespace) -> None:
    """Replace the parameter or setting of `flags` that an error's message begins with by the flag that set it."""
    for name, argument in getattr(args, "flags", {}).items():
        typed = getattr(args, argument, None)
        if typed is None or typed is False:
            continue
        variable = f"(?:MINER_)?{re.escape(name.upper())}="
        found = re.match(rf"(?:{variable}|{re.escape(name)}\b=?)(?=[^_\w]|['\"\d])", error.message)
        if found is not None:
            space = " " if found.group().endswith("=") else ""
            error.message = f"--{argument.replace('_', '-')}{space}{error.message[found.end() :]}"
            return


def number(text: str) -> int | float | str:
    """Parse a number; return other text as it is, for the library's own check to reject."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add --json: one object on standard output (docs/cli.md)."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def add_model_option(
    parser: argparse.ArgumentParser, help: str = "the model (DEFAULT_MODEL, else the backend's own or only one)"
) -> None:
    """Add --model, -m for short."""
    parser.add_argument("-m", "--model", metavar="NAME", help=help)


def add_target_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which backend or server, and which model, a command talks to (`target.open_target`)."""
    add_model_option(parser)
    parser.add_argument("--backend", metavar="NAME", help="one of those that `miner backends` lists (LLM_BACKEND)")
    add_config_option(parser)
    parser.add_argument(
        "--url", metavar="URL", help="a server instead: `miner serve`, or any that speaks OpenAI's API (MINER_URL)"
    )
    parser.add_argument("--key", metavar="KEY", help="API key of --url; -: read it from standard input (MINER_KEY)")


def add_gateway_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that calls the admin routes of a running gateway."""
    parser.add_argument(
        "--url", metavar="URL", help="the gateway (MINER_URL, else that of MINER_SERVE_HOST and MINER_SERVE_PORT)"
    )
    parser.add_argument(
        "--key", metavar="KEY", help="an API key with the admin right; -: read it from standard input (MINER_KEY)"
    )
    parser.set_defaults(default_gateway=True)
    add_json_option(parser)
