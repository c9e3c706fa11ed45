"""What a command shows on a terminal of a given size."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pyte

from tests.cli.conftest import LONG, environment

__all__ = ["raw_output", "screen_of"]


def raw_output(
    arguments: list[str], *, width: int, directory: Path, height: int = 500, **settings: str
) -> tuple[bytes, int]:
    """All that `miner` writes to a terminal, and its exit status."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    env = environment(directory, TERM="xterm-256color", **settings)
    del env["COLUMNS"]
    process = subprocess.Popen(
        [sys.executable, "-m", "miner", *arguments], cwd=directory, env=env, stdin=follower, stdout=follower,
        stderr=follower, start_new_session=True,
    )  # fmt: skip
    os.close(follower)
    data, end = b"", time.monotonic() + LONG
    try:
        while time.monotonic() < end:
            if not select.select([leader], [], [], 1)[0]:
                continue
            try:
                read = os.read(leader, 1 << 16)
            except OSError:  # the other side is closed
                break
            if not read:
                break
            data += read
        return data, process.wait(LONG)
    finally:
        os.close(leader)
        if process.poll() is None:
            process.kill()
            process.wait()


def screen_of(
    arguments: list[str], *, width: int, directory: Path, height: int = 500, **settings: str
) -> tuple[list[str], int]:
    """The lines that the terminal shows at the end, and the exit status."""
    data, status = raw_output(arguments, width=width, directory=directory, height=height, **settings)
    screen = pyte.Screen(width, height)
    pyte.ByteStream(screen).feed(data)
    lines = [line.rstrip() for line in screen.display]
    while lines and not lines[-1]:
        lines.pop()
    return lines, status
