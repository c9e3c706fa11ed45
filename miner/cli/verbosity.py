"""How much a command says on standard error: -q, -v, --log-level and --debug.

Without them a command prints notices and what the library warns about. `miner --help` loads this module.
"""

from __future__ import annotations

import argparse

LEVELS = ("debug", "info", "warning", "error", "critical")

_quiet = False
_logs = False


def add_verbosity_options(parser: argparse.ArgumentParser) -> None:
    """Add the options, before and after the command alike."""
    # SUPPRESS: a subcommand's parser must not overwrite options before the subcommand.
    add = parser.add_argument_group("messages").add_argument
    add("-v", "--verbose", action="count", default=argparse.SUPPRESS, help="print log messages; -vv: debug ones too")
    add("-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help="print errors only, no notices")
    add(
        "--log-level", metavar="LEVEL", default=argparse.SUPPRESS, type=str.lower, choices=LEVELS,
        help="debug, info, warning, error or critical (serve: MINER_LOG_LEVEL, info)",
    )  # fmt: skip
    add("--debug", action="store_true", default=argparse.SUPPRESS, help="print debug messages and tracebacks")


def level_of(args: argparse.Namespace) -> str | None:
    """The log level that the options ask for; None: they do not."""
    named: str | None = getattr(args, "log_level", None)
    if named is not None:
        return named
    verbose: int = getattr(args, "verbose", 0)
    if getattr(args, "debug", False) or verbose > 1:
        return "debug"
    if verbose:
        return "info"
    return "error" if getattr(args, "quiet", False) else None


def apply(args: argparse.Namespace) -> None:
    """Apply the options to this process. A command that keeps a log of its own (`miner serve`) asks `level_of`."""
    global _quiet, _logs
    _quiet = bool(getattr(args, "quiet", False))
    level = level_of(args)
    _logs = level is not None
    if level is not None and not getattr(args, "own_log", False):
        import logging

        logging.basicConfig(level=level.upper(), format="%(asctime)s %(name)s %(levelname)s: %(message)s")


def quiet() -> bool:
    """Whether notices are left out."""
    return _quiet


def logs_shown() -> bool:
    """Whether the log goes to standard error, so that its warnings need no notices."""
    return _logs
