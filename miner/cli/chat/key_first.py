"""A chat whose key comes from standard input: `miner chat --key - < key.txt`."""

from __future__ import annotations

import argparse
import io
import os
import sys

from miner.cli.target import read_key


def take_key(args: argparse.Namespace) -> None:
    """Read the key of --key - where standard input is no terminal; if nothing follows it, go on at the terminal of this
    process, if it has one.

    Raises:
        UsageError: standard input has no key.
    """
    if args.key != "-" or args.url is None or sys.stdin is None or sys.stdin.isatty():
        return
    args.key = read_key("-")
    rest = sys.stdin.buffer
    assert isinstance(rest, io.BufferedReader)
    if args.prompt or args.file or args.image or rest.peek(1):
        return
    terminal = _terminal()
    if terminal is not None:
        os.dup2(terminal, 0)
        os.close(terminal)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115


def _terminal() -> int | None:
    """A descriptor of the terminal: by its own name, as /dev/tty cannot be waited for on macOS."""
    names = [os.ttyname(output) for output in (2, 1) if os.isatty(output)]
    for name in (*names, "/dev/tty"):
        try:
            return os.open(name, os.O_RDWR | os.O_NOCTTY)
        except OSError:
            continue
    return None
