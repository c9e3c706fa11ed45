"""The progress of a pull on standard error: a bar on a terminal, a line per 10 % elsewhere."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

from miner.cli.output.errors import note
from miner.cli.output.sparkline import clock
from miner.cli.output.style import is_terminal

if TYPE_CHECKING:
    from miner.core.models.hub.download import PullProgress

_STEP = 10
"""Percent between two lines where there is no terminal."""
_BAR = 24
"""Width of the bar in characters."""


class PullBar:
    """Shows each PullProgress that it is called with; as a context manager, it ends the line at exit."""

    def __init__(self) -> None:
        self._terminal = is_terminal(sys.stderr)
        self._shown: tuple[str, str, int] | None = None
        self._drawn = False

    def __enter__(self) -> PullBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._drawn:
            self._put("\n")

    def __call__(self, progress: PullProgress) -> None:
        """Show the progress."""
        share = 100 * progress.done // max(1, progress.total)
        if self._terminal:
            self._drawn = True
            columns = shutil.get_terminal_size().columns - 1
            # The cursor returns to the start, so that the hub library's retry messages get a line of their own.
            self._put(f"\x1b[K{_line(progress, share, columns)}\r")
            return
        key = (progress.file, progress.stage, share // _STEP)
        if key != self._shown and progress.total:
            self._shown = key
            note(_line(progress, share, 200, bar=False))

    @staticmethod
    def _put(text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:
            pass


def _line(progress: PullProgress, share: int, columns: int, *, bar: bool = True) -> str:
    from miner.cli.output.tables import printable
    from miner.core.models.memory.verdict import readable

    name = printable(progress.file.rpartition("/")[2], limit=60)
    if progress.files > 1 and progress.number:
        name += f" ({progress.number} of {progress.files})"
    if progress.stage == "waiting":
        return f"{name}: waiting for another download of the same file"[:columns]
    parts = [f"{share:3} %", f"{readable(progress.done)} of {readable(progress.total)}"]
    if progress.stage == "checking":
        parts.append("checking")
    if progress.speed is not None:
        parts.append(f"{readable(int(progress.speed))}/s")
    if progress.left is not None:
        parts.append(f"{clock(progress.left)} left")
    filled = _BAR * share // 100
    drawn = f"[{'#' * filled}{'.' * (_BAR - filled)}]"
    if bar and len(name) + len(drawn) + sum(map(len, parts)) + 2 * len(parts) + 2 <= columns:
        parts.insert(0, drawn)
    return "  ".join([name, *parts])[:columns]
