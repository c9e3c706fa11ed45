"""A command's output for an error, and its exit status."""

from __future__ import annotations

import os
import signal
import sys

from miner.cli.output.visible import visible_but_styled
from miner.cli.parser import UsageError
from miner.cli.verbosity import quiet
from miner.errors import BackendError, ConfigError, MinerError, RequestError, StreamInterruptedError

_LOG_LINES = 12
"""Lines printed of the engine's log tail."""


def exit_status(error: MinerError) -> int:
    """2: invalid usage, setting or request; 3: part of the output was printed; 1: anything else."""
    if isinstance(error, (ConfigError, RequestError, UsageError)):
        return 2
    return 3 if _partial(error) else 1


def report(error: MinerError, *, as_json: bool = False) -> int:
    """Print an error as `miner: message` with both hints below it, and return the exit status.

    Args:
        as_json: also print it as a JSON object on standard output.
    """
    status = exit_status(error)
    if as_json:
        _print_json(error, status)
    lines = [f"miner: {error.message}"]
    hints = error.hints_for_people
    if isinstance(error, StreamInterruptedError) and error.hint in (None, error.PARTIAL_HINT):
        above = "What came before stands above. " if status == 3 and not as_json else ""
        hints = f"{above}Try again. {hints or ''}".rstrip()
    if hints or isinstance(error, BackendError):
        lines.append(f"  {hints or 'Run `miner doctor`: it looks for the cause.'}")
    tail = [line for line in getattr(error, "log_tail", ()) if line not in error.message]
    if tail:
        lines += ["  Last lines of the engine's log:", *(f"  | {line}" for line in tail[-_LOG_LINES:])]
    complain("\n".join(lines))
    return status


def report_interrupted(number: int, content: str | None = None) -> int:
    """Print the JSON object of a command that a signal has stopped; return the exit status. Standard error stays empty:
    who has sent the signal knows of it.

    Args:
        content: the text received before.
    """
    status, name = 128 + number, signal.Signals(number).name
    _print_object("Interrupted", "interrupted", f"Interrupted by {name}.", None, status, content)
    return status


def report_unexpected(error: Exception, *, debug: bool) -> int:
    """Print one line about an error that is not a MinerError, or its traceback; return the exit status."""
    if debug:
        import traceback

        complain("".join(traceback.format_exception(error)).rstrip())
    else:
        complain(
            f"miner: Unexpected {type(error).__name__}: {' '.join(str(error).split())}\n"
            "  This is a bug in miner. --debug prints the traceback; `miner doctor` looks for what is wrong here."
        )
    return 1


def note(text: str) -> None:
    """Print a notice, unless -q is set: on standard error, of which a closed or broken one is ignored."""
    if not quiet():
        complain(text)


def complain(text: str) -> None:
    """Print an error on standard error; a closed or broken one is ignored. What a server said in it moves no cursor."""
    try:
        print(visible_but_styled(text), file=sys.stderr, flush=True)
    except OSError:
        pass


def drop_output() -> None:
    """Redirect standard output to /dev/null: Python flushes it once more at exit, which would fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _partial(error: MinerError) -> str:
    """The text that had arrived before the error."""
    partial = error.partial if isinstance(error, BackendError) else None
    return str(partial) if partial is not None else ""


def _print_json(error: MinerError, status: int) -> None:
    _print_object(type(error).__name__, error.code, error.message, error.hints_for_people, status, _partial(error))


def _print_object(kind: str, code: str, message: str, hint: str | None, status: int, content: str | None) -> None:
    import json

    described = {"type": kind, "code": code, "message": message, "hint": hint, "exit_code": status}
    try:
        print(json.dumps({"error": described, "content": content or None}, indent=2), flush=True)
    except OSError:
        drop_output()  # standard error has the message
