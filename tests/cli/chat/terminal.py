"""A terminal of a test: `miner` in a pty, its screen by pyte, keys as a person presses them."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pyte

from tests.cli.conftest import LONG, environment

PATIENCE = 120.0
"""Seconds after which what is waited for will not come."""
CTRL_C, CTRL_D, ENTER, ALT_ENTER, UP, TAB = "\x03", "\x04", "\r", "\x1b\r", "\x1b[A", "\t"


class Terminal:
    """A child on a terminal of so many columns and rows.

    ::

        with Terminal(tmp_path, "chat", columns=80) as terminal:
            terminal.wait(">>> ")
            terminal.type("Hello" + ENTER)
            terminal.wait("tokens/s")
    """

    def __init__(
        self, directory: Path, *arguments: str, columns: int = 80, rows: int = 24, under: str | None = None,
        **settings: str,
    ) -> None:  # fmt: skip
        """Args:
        under: a Python program that runs `miner` with its arguments.
        """
        self.raw = b""
        """All that the child has written."""
        self.status: int | None = None
        self._screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=0.5)
        self._stream = pyte.ByteStream(self._screen)
        self._master, terminal = pty.openpty()
        self._size(columns, rows)
        env = environment(directory, **{"TERM": "xterm-256color", "PYTHONWARNINGS": "default"} | settings)
        del env["COLUMNS"]
        self.process = subprocess.Popen(
            [sys.executable, *(("-m", "miner") if under is None else ("-c", under)), *arguments],
            stdin=terminal, stdout=terminal, stderr=terminal, cwd=directory, env=env, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(terminal)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LONG)
        os.close(self._master)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def writable(self) -> bool:
        """Whether the terminal takes keys now."""
        return bool(select.select([], [self._master], [], 0)[1])

    def paste(self, text: str) -> None:
        """Paste, as a terminal with bracketed paste does."""
        self.type(f"\x1b[200~{text}\x1b[201~")

    def resize(self, columns: int, rows: int) -> None:
        """Drag the window's corner."""
        self._size(columns, rows)
        self._screen.resize(rows, columns)
        os.killpg(self.process.pid, signal.SIGWINCH)

    def _size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self, seconds: float) -> bool:
        """Take what comes next into the screen; return whether the child is still there."""
        ready, _, _ = select.select([self._master], [], [], seconds)
        if ready:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # Linux: the other end is closed
                return False
            self.raw += data
            self._stream.feed(data)
        return True

    def wait(self, wanted: str | Callable[[str], object], seconds: float = PATIENCE) -> str:
        """Wait until a text is on the screen or in what has scrolled away, or a condition on it holds; return it."""
        end = time.monotonic() + seconds
        while True:
            shown = self.text
            if wanted(shown) if callable(wanted) else wanted in shown:
                return shown
            alive = self.read(0.05)
            assert alive or (wanted(self.text) if callable(wanted) else wanted in self.text), f"ended:\n{self.text}"
            assert time.monotonic() < end, f"waited {seconds:g} s for {wanted!r}; the screen:\n{self.text}"

    def ask(self, text: str, wanted: str | Callable[[str], object] = "tokens/s") -> str:
        """Type a line and wait for what comes of it, below the line; return that."""
        before = self.text.count(wanted) if isinstance(wanted, str) else 0
        self.type(text + ENTER)
        if isinstance(wanted, str):
            return self.wait(lambda shown: shown.count(wanted) > before + text.count(wanted))
        return self.wait(wanted)

    def end(self) -> int:
        """Wait for the child's end; return its exit status."""
        deadline = time.monotonic() + LONG
        while self.process.poll() is None:
            self.read(0.05)
            assert time.monotonic() < deadline, f"it does not end:\n{self.text}"
        while self.read(0.05):
            if not select.select([self._master], [], [], 0)[0]:
                break
        return self.process.returncode

    @property
    def text(self) -> str:
        """What has scrolled away and what is on the screen, without blanks at the ends of lines."""
        width = self._screen.columns
        gone = ["".join(line[column].data for column in range(width)).rstrip() for line in self._screen.history.top]
        return "\n".join([*gone, *(line.rstrip() for line in self._screen.display)]).rstrip()

    @property
    def screen(self) -> list[str]:
        """The lines of the screen."""
        return [line.rstrip() for line in self._screen.display]
