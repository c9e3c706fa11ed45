"""How an error ends a command: what is printed, and the exit status."""

from __future__ import annotations

import os
import sys
from typing import Any

from miner.cli.parser import UsageError
from miner.errors import BackendError, ConfigError, MinerError, RequestError

__all__ = ["drop_output", "exit_status", "note", "report", "report_unexpected"]

_LOG_LINES = 12


def exit_status(error: MinerError) -> int:
    """2: the caller can mend it; 3: a part of the answer was printed; 1: anything else."""
    if isinstance(error, (ConfigError, RequestError, UsageError)):
        return 2
    return 3 if _partial(error) else 1


def report(error: MinerError, *, as_json: bool = False) -> int:
    """Print an error as `miner: message`, the hint below it, and return the exit status.

    Args:
        as_json: print it as a JSON object on standard output, too.
    """
    status = exit_status(error)
    if as_json:
        _print_json(error, status)
    lines = [f"miner: {error.message}"]
    if hint := _hints(error):
        lines.append(f"  {hint}")
    tail = [line for line in getattr(error, "log_tail", ()) if line not in error.message]
    if tail:
        lines += ["  The engine's last lines:", *(f"  | {line}" for line in tail[-_LOG_LINES:])]
    note("\n".join(lines))
    return status


def report_unexpected(error: Exception, *, debug: bool) -> int:
    """Print one line about an error that nobody foresaw, or its traceback."""
    if debug:
        import traceback

        note("".join(traceback.format_exception(error)).rstrip())
    else:
        note(
            f"miner: Unexpected {type(error).__name__}: {' '.join(str(error).split())}\n"
            "  This is a fault of miner. --debug shows where it happened."
        )
    return 1


def note(text: str) -> None:
    """Write to standard error; where nobody listens there, nobody is told."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        pass


def drop_output() -> None:
    """Send standard output to nowhere: Python flushes it once more at its end, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _hints(error: MinerError) -> str:
    """Both hints: who uses the command line is the operator."""
    return " ".join(filter(None, (error.hint, error.operator_hint)))


def _partial(error: MinerError) -> str:
    """The text that had arrived."""
    partial = error.partial if isinstance(error, BackendError) else None
    return str(partial) if partial is not None else ""


def _print_json(error: MinerError, status: int) -> None:
    import json

    described: dict[str, Any] = {
        "type": type(error).__name__,
        "code": error.code,
        "message": error.message,
        "hint": _hints(error) or None,
        "exit_code": status,
    }
    try:
        print(json.dumps({"error": described, "content": _partial(error) or None}), flush=True)
    except OSError:
        drop_output()  # the line on standard error tells it
