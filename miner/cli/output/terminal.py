"""Generated text on standard output; status line and notices on standard error."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import shutil
import sys
import time

from miner.cli.output.errors import note
from miner.cli.output.style import is_terminal
from miner.cli.output.visible import one_line, visible
from miner.cli.signals import StopSignals
from miner.cli.verbosity import quiet
from miner.core._typing import override
from miner.core.wire import Progress
from miner.errors import MinerError

_REDRAW_SECONDS = 0.5
_NEVER_BLOCKS = 512
"""Bytes that a writable pipe always takes (POSIX's smallest PIPE_BUF)."""


class Output:
    """Unbuffered standard output: text not yet written when a signal arrives is dropped. A terminal gets no control
    characters of the text; a pipe and a file get it as it is.
    """

    def __init__(self, signals: StopSignals) -> None:
        self._signals = signals
        self._at_line_start = True
        self._encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        self._terminal = sys.stdout.isatty()

    def write(self, text: str) -> None:
        """Write text.

        Raises:
            BrokenPipeError: the reader has exited.
            MinerError: it cannot be written, for example because the disk is full.
        """
        data = (visible(text) if self._terminal else text).encode(self._encoding, "replace")
        while data:
            with self._signals.blocking():
                # Unbounded: the reader may be a pager, or a paused terminal.
                self._writable(None)
            try:
                written = os.write(sys.stdout.fileno(), data[:_NEVER_BLOCKS])
            except BrokenPipeError:
                raise
            except OSError as error:
                raise MinerError(f"The output cannot be written: {error.strerror}.") from error
            self._at_line_start = data[:written].endswith(b"\n")
            data = data[written:]

    def end_line(self) -> None:
        """Write a newline unless the output is at the start of a line."""
        if not self._at_line_start and (self._signals.received is None or self._writable(0.0)):
            self.write("\n")

    @staticmethod
    def _writable(timeout: float | None) -> bool:
        if os.name == "nt":
            return True  # select takes only sockets there
        return bool(select.select([], [sys.stdout.fileno()], [], timeout)[1])


class Status:
    """A status line on standard error, redrawn in place with the elapsed seconds; nothing where that is no terminal."""

    def __init__(self) -> None:
        self._shown = is_terminal(sys.stderr) and not quiet()
        self._text = ""
        self._began = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None

    def show(self, text: str) -> None:
        """Set the line's text."""
        if self._shown:
            self._text = one_line(text)
            self._draw()

    def erase(self) -> None:
        """Clear the line until the next `show`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._put("")

    def _draw(self) -> None:
        seconds = time.monotonic() - self._began
        line = f"{self._text} ({seconds:.0f} s)" if seconds >= 1 else self._text
        self._put(line[: shutil.get_terminal_size().columns - 1])
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_REDRAW_SECONDS, self._draw)

    @staticmethod
    def _put(line: str) -> None:
        try:
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
        except OSError:
            pass


class Notices(logging.Handler):
    """Log handler that prints the library's warnings. Retries appear only in the status line, and an engine's exit only
    in the error that the command ends with.
    """

    def __init__(self, status: Status) -> None:
        super().__init__(logging.WARNING)
        self._status = status

    @override
    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "miner.retry":
            self._status.show(record.getMessage())
        if record.name in ("miner.retry", "miner.engine"):
            return
        self._status.erase()
        note(f"miner: {record.getMessage()}")


def describe_progress(progress: Progress) -> str:
    """The engine's activity before its first token, in words."""
    if progress.stage == "queue":
        ahead = progress.total - progress.done
        return f"waiting for a free slot, {ahead} ahead" if ahead else "starting the engine"
    if progress.stage == "load":
        return f"loading the model: {100 * progress.done // max(1, progress.total)} %"
    return f"processing the prompt: {progress.done} of {progress.total} tokens"
