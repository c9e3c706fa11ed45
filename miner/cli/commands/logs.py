"""`miner logs`: the log of a running gateway, or the last lines of a model's engine."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from miner.cli.output.errors import note
from miner.cli.parser import UsageError, add_gateway_options, number
from miner.cli.verbosity import LEVELS

if TYPE_CHECKING:
    from miner.cli.gateway_client import GatewayClient, ServerEvent
    from miner.errors import MinerError

_EPILOG = """\
examples:
  miner logs
  miner logs -f --level warning
  miner logs -n 1000 --json | jq .message
  miner logs small
  miner logs --url http://node:8088 --key - < key.txt

A gateway keeps its last 2000 lines in memory, and apart from them its last 2000
from warning; of an engine the last 400 lines, also after its end. Engines of
llama.cpp write errors only. -f goes on when the gateway is started again.
With --json each line is an object.
"""
_COLOURS = {"warning": "yellow", "error": "red", "critical": "red", "debug": "dim"}
_FIRST = ("time", "level", "logger", "message")
_IN_MESSAGE = ("address", "key", "method", "route", "status")
"""Fields of the access log that its message has already."""


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Show the log of a running gateway, or what a model's engine has written.",
        epilog=_EPILOG,
        usage="miner logs [MODEL] [options]",
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="the engine of this model; default: the gateway itself")
    add("-f", "--follow", action="store_true", help="go on with what is logged from now on")
    add("-n", "--lines", metavar="N", type=number, default=100, help="the last N lines; default: 100")
    add("--level", metavar="LEVEL", type=str.lower, choices=LEVELS, help="the lowest level: debug, info, warning, ...")
    add_gateway_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the lines; return the exit status."""
    if not isinstance(args.lines, int) or args.lines < 0:
        raise UsageError(f"--lines {args.lines}: must be a number of lines, 0 or more.")
    if args.model is not None and args.level is not None:
        raise UsageError("--level is for the gateway's own log: the lines of an engine have no level.")
    from miner.cli.gateway_client import Entries, GatewayClient, Lines

    client = GatewayClient.of(args.url, args.key)
    printer = _Printer(as_json=args.json, model=args.model)
    if args.follow:
        if args.model is not None and not client.get(_path(args, lines=1), Lines, model=args.model)["lines"]:
            note(f"miner: The engine of {args.model} has written nothing yet. Waiting for it ...")
        from miner.cli.signals import run_until_stopped

        return run_until_stopped(lambda _: _follow(args, client, printer))
    content = client.get(_path(args), Entries if args.model is None else Lines, model=args.model)
    for entry in content["entries"] if args.model is None else content["lines"]:
        printer.show(entry)
    if args.model is not None and args.lines and not content["lines"]:
        note(f"miner: The engine of {args.model} has written nothing.")
    return 0


async def _follow(args: argparse.Namespace, client: GatewayClient, printer: _Printer) -> int:
    from miner.cli.watching import watch

    events = watch(
        client, lambda after: _path(args, follow=True, after=after), model=args.model, on_lost=_lost, on_back=_back
    )
    async for event in events:
        printer.event(event)
    return 0


def _lost(error: MinerError | None) -> None:
    why = "The gateway has ended the stream: it stops." if error is None else error.message
    note(f"miner: {why} Waiting for it ...")


def _back() -> None:
    note("miner: The gateway is back.")


def _path(args: argparse.Namespace, *, follow: bool = False, after: int | None = None, lines: int | None = None) -> str:
    path = "/admin/logs" if args.model is None else f"/admin/models/{quote(args.model, safe='')}/logs"
    most = args.lines if lines is None else lines
    query = {"lines": most if after is None or args.model is not None else 10**9}
    query |= {"level": args.level} if args.level else {}
    query |= {"follow": "true"} if follow else {}
    query |= {"after": after} if after is not None else {}
    return f"{path}?{urlencode(query)}"


class _Printer:
    """Prints lines on standard output."""

    def __init__(self, *, as_json: bool, model: str | None) -> None:
        from miner.cli.output.style import Style

        self._json = as_json
        self._model = model
        self._style = Style(sys.stdout)

    def event(self, event: ServerEvent) -> None:
        """Print a line that has come."""
        if event.kind == "lost":
            note("miner: Some lines are missing: more were logged than the gateway keeps.")
        elif event.kind in ("log", "line"):
            self.show(event.data["line"] if event.kind == "line" else event.data)

    def show(self, entry: Mapping[str, Any] | str) -> None:
        """Print an entry of the log, or a line of an engine."""
        if self._json:
            print(json.dumps({"model": self._model, "line": entry} if isinstance(entry, str) else entry), flush=True)
        else:
            print(_clean(entry) if isinstance(entry, str) else self._text(entry), flush=True)

    def _text(self, entry: Mapping[str, Any]) -> str:
        level = str(entry.get("level", ""))
        colour = getattr(self._style, _COLOURS.get(level, ""), str)
        words = [self._style.dim(str(entry.get("time", ""))), colour(level.upper()), str(entry.get("logger", ""))]
        words.append(_clean(str(entry.get("message", ""))))
        left_out = _IN_MESSAGE if entry.get("logger") == "miner.access" else ()
        for name, value in entry.items():
            if name not in (*_FIRST, *left_out, "exception") and isinstance(value, (str, int, float)):
                text = str(value)
                words.append(f"{name}={text if text and text.isprintable() and ' ' not in text else json.dumps(value)}")
        lines = [" ".join(words)]
        lines += [f"  | {_clean(line)}" for line in str(entry.get("exception") or "").splitlines()]
        return "\n".join(lines)


def _clean(text: str) -> str:
    """A line without what a terminal would obey."""
    return "".join(char if char.isprintable() or char == "\t" else "?" for char in text)
