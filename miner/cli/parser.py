"""argparse in the house's manner: errors are raised, options are not abbreviated, help fits 80 columns.

This module is loaded for `miner --help`, so it imports nothing but argparse and the errors.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from miner.core._typing import override
from miner.errors import MinerError

__all__ = ["EXIT_STATUS", "CommandParser", "UsageError", "name_flags", "nearest", "number", "unexpected"]

EXIT_STATUS = """\
exit status:
  0    done
  1    the engine, or the way to it, failed, and nothing was printed
  2    wrong usage, a wrong setting, or a request that cannot be served as it is
  3    the engine failed after a part of the answer was printed
  130  stopped by Ctrl-C (143: by SIGTERM)
  141  whoever read the output went away
"""


class UsageError(MinerError):
    """The command line makes no sense; exit status 2."""

    code = "usage_error"


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Examples keep their lines; nothing is wider than 80 columns, however wide the terminal."""

    def __init__(self, prog: str, **settings: Any) -> None:
        import shutil

        settings["width"] = min(80, shutil.get_terminal_size().columns) - 2
        settings["max_help_position"] = 26
        super().__init__(prog, **settings)


class CommandParser(argparse.ArgumentParser):
    """The parser of `miner` and of each of its commands."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", _HelpFormatter)
        settings.setdefault("allow_abbrev", False)
        super().__init__(**settings)
        # SUPPRESS: a command's parser must not overwrite what stood before the command.
        self.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show log messages and tracebacks"
        )

    @override
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message[:1].upper()}{message[1:]}.", hint=f"See `{self.prog} --help`.")


def unexpected(rest: list[str], parser: argparse.ArgumentParser) -> UsageError:
    """The error for arguments that a command does not take, with the option that was meant."""
    first = rest[0]
    if not first.startswith("-"):
        return UsageError(
            f"There is one argument too many: {first!r}.",
            hint="Put what belongs together, such as a prompt, into quotes.",
        )
    name = first.partition("=")[0]
    hint = nearest(name, parser._option_string_actions) or f"See `{parser.prog} --help`."
    return UsageError(f"There is no option {name}.", hint=hint)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """`Did you mean ...?` where something is like it."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {near[0]}?" if near else None


def name_flags(error: MinerError, args: argparse.Namespace) -> None:
    """Let an error speak of the flag that was typed, not of the parameter or setting behind it.

    A command says in its default `flags` what stands behind which of its arguments: `{"serve_port": "port"}`.
    """
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
    """A number where it is one. Everything else stays as it is: the library says what is allowed, once for all."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
