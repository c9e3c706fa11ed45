"""A command on a terminal of a given size: what stands on its screen, and the keys of a person."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyte

__all__ = ["Terminal", "on_terminal"]

_PATIENCE = 120.0


class Terminal:
    """A terminal with a command on it."""

    def __init__(self, process: subprocess.Popen[bytes], fd: int, columns: int, rows: int) -> None:
        self.process = process
        self.raw = b""
        """All that was written."""
        self._fd = fd
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)

    @property
    def lines(self) -> list[str]:
        """What stands on the screen."""
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        """The same, as one text."""
        return "\n".join(self.lines)

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._fd, keys.encode())

    def read(self, seconds: float) -> bool:
        """Read what comes within that time; False: the command has ended."""
        ready, _, _ = select.select([self._fd], [], [], seconds)
        if not ready:
            return True
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # the other side is closed
            return False
        self.raw += data
        self._stream.feed(data)
        return bool(data)

    def until(self, wanted: str) -> str:
        """Wait until a text stands on the screen; return the screen."""
        end = time.monotonic() + _PATIENCE
        while wanted not in self.text:
            assert time.monotonic() < end, f"{wanted!r} is not on the screen:\n{self.text}"
            if not self.read(0.2):
                assert wanted in self.text, f"it has ended without {wanted!r}:\n{self.raw.decode(errors='replace')}"
        return self.text

    def ended(self) -> int:
        """Wait for the end of the command; its exit status."""
        end = time.monotonic() + _PATIENCE
        while self.read(0.2):
            assert time.monotonic() < end, self.text
        return self.process.wait(_PATIENCE)


@contextmanager
def on_terminal(
    command: Sequence[str], *, columns: int, rows: int, env: dict[str, str], cwd: Path
) -> Iterator[Terminal]:
    """Run a command on a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    settings = {name: value for name, value in env.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, start_new_session=True,
        env={"TERM": "xterm-256color", **settings},
    )  # fmt: skip
    os.close(theirs)
    try:
        yield Terminal(process, ours, columns, rows)
    finally:
        process.kill()
        process.wait(_PATIENCE)
        os.close(ours)
