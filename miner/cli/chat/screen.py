"""The lower end of a terminal: lines that are printed for good, and below them some that are redrawn in place.

Only lines that changed are written, all of a frame in one write, so nothing flickers; what has been printed is never
touched again.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

_HIDE, _SHOW = "\x1b[?25l\x1b[?2004h", "\x1b[?25h\x1b[?2004l"
"""The cursor; and what is pasted meanwhile is marked, as at a prompt, so that its lines are not sent one by one."""

_REFLOWS = ("TMUX", "VTE_VERSION", "KITTY_WINDOW_ID", "WEZTERM_PANE", "ITERM_SESSION_ID", "ALACRITTY_WINDOW_ID",
            "KONSOLE_VERSION", "WT_SESSION", "GHOSTTY_RESOURCES_DIR")  # fmt: skip
"""Variables of terminals that wrap their lines anew when they become narrower."""


class Screen:
    """A terminal's lower end, on standard output."""

    def __init__(self) -> None:
        self._drawn: list[str] = []
        self._columns = self.columns
        self._hides = False
        self._encoding = getattr(sys.stdout, "encoding", None) or "utf-8"

    @property
    def columns(self) -> int:
        """The terminal's width now."""
        return max(10, shutil.get_terminal_size().columns)

    @property
    def rows(self) -> int:
        """The terminal's height now."""
        return max(3, shutil.get_terminal_size().lines)

    def show(self, finished: Sequence[str], below: Sequence[str] = ()) -> None:
        """Print lines for good in the place of those that are drawn, and draw others below them: the last of these
        where they do not fit.
        """
        shown = list(below)[-(self.rows - 1) :]
        before, frame = self._drawn, ""
        if self.columns != self._columns:
            frame = f"{self._home(0)}\x1b[J"
            before, self._columns = [], self.columns
            self._drawn = []
        if finished:
            # A long line is wrapped by the terminal, so that it is copied as one.
            frame += self._home(0) if before else ""
            frame += "".join(f"{line}\x1b[K\n" for line in finished) + _drawn(shown) + "\x1b[J"
        else:
            frame += self._changes(before, shown)
        self._drawn = shown
        if frame:
            self._put(frame)

    def _changes(self, before: Sequence[str], shown: Sequence[str]) -> str:
        """What turns the lines that are drawn into others."""
        same = 0
        while same < min(len(shown), len(before)) and shown[same] == before[same]:
            same += 1
        if same == len(shown) == len(before):
            return ""
        if same == len(shown):  # fewer lines; the cursor goes to the end of the last one
            return f"{self._home(same)}\x1b[J" + ("\x1b[A\x1b[999C" if same else "")
        start = "\n" if before and same == len(before) else self._home(same) if before else ""
        return start + _drawn(shown[same:]) + ("\x1b[J" if len(shown) < len(before) else "")

    def write(self, text: str) -> None:
        """Write text as it is, where nothing is drawn."""
        self._put(text)

    def erase(self) -> None:
        """Take away what is drawn."""
        self.show([])

    def _home(self, first: int) -> str:
        """Move the cursor from the end of the drawn lines to the start of the line `first`."""
        if not self._drawn:
            return ""
        rows = len(self._drawn) - 1 - first
        columns = self.columns
        if columns < self._columns and any(name in os.environ for name in _REFLOWS):
            rows += sum(rows_of(line, self._columns, columns) - 1 for line in self._drawn[first:])
        return "\r" + (f"\x1b[{rows}A" if rows > 0 else "")

    def _put(self, text: str) -> None:
        data = text.encode(self._encoding, "replace")
        while data:
            data = data[os.write(sys.stdout.fileno(), data) :]

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """Hide the cursor while a response arrives."""
        sys.stdout.flush()
        self._put(_HIDE)
        self._hides = True
        try:
            yield
        finally:
            self._hides = False
            self._put(_SHOW)

    def left(self) -> None:
        """Leave the terminal to others: they write below what is drawn, which stays."""
        self._put(("\n" if self._drawn else "") + (_SHOW if self._hides else ""))
        self._drawn = []

    def returned(self) -> None:
        """The terminal is ours again."""
        self._put(_HIDE if self._hides else "")


class UnechoedKeys:
    """Keys that are pressed while nobody reads them are not shown, and the next prompt gets them: Enter as Enter, not
    as a line feed. Ctrl-C is still a signal. While the process is stopped (Ctrl-Z), and after it was quit, the terminal
    is as it was before.
    """

    def __init__(self) -> None:
        self.screen: Screen | None = None
        """What draws on the terminal meanwhile."""

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Have the terminal so within the block."""
        try:
            import termios
        except ImportError:  # Windows
            yield
            return
        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
        quiet = termios.tcgetattr(terminal)
        quiet[0] &= ~termios.ICRNL
        quiet[3] &= ~(termios.ECHO | termios.ICANON)

        def on_signal(number: int, _frame: FrameType | None) -> None:
            if self.screen is not None:
                self.screen.left()
            termios.tcsetattr(terminal, termios.TCSANOW, before)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)  # stops or ends here
            signal.signal(number, on_signal)
            termios.tcsetattr(terminal, termios.TCSANOW, quiet)
            if self.screen is not None:
                self.screen.returned()

        handlers = {
            number: signal.signal(number, on_signal)
            for number in (signal.SIGTSTP, signal.SIGQUIT)
            if signal.getsignal(number) == signal.SIG_DFL
        }
        termios.tcsetattr(terminal, termios.TCSANOW, quiet)
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            termios.tcsetattr(terminal, termios.TCSANOW, before)


def rows_of(line: str, columns: int, narrower: int) -> int:
    """The rows that a terminal makes of a line with its colours which was drawn in one.

    Args:
        columns: when it was drawn; what did not fit is not there.
        narrower: columns now. A wide character that does not fit at the end of a row leaves a cell there empty.
    """
    from rich.cells import cell_len
    from rich.text import Text

    rows, used, drawn = 1, 0, 0
    for width in map(cell_len, Text.from_ansi(line).plain):
        drawn += width
        if drawn > columns:
            break
        if used + width > narrower:
            rows, used = rows + 1, 0
        used += width
    return rows


def _drawn(lines: Sequence[str]) -> str:
    """Lines below each other. Without automatic wrapping each takes one row, even if the terminal finds its characters
    wider than we do.
    """
    return "\x1b[?7l" + "\n".join(f"{line}\x1b[K" for line in lines) + "\x1b[?7h" if lines else ""
