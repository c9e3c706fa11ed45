"""A measurement while it runs: redrawn in place on a terminal, in lines elsewhere. Both on standard error.

The measuring shares its event loop with this, so a draw costs a fraction of a millisecond, four times a second at most:
what a measured latency would show of it is lost in its third digit.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from time import monotonic
from typing import TYPE_CHECKING, TextIO

from miner.cli.bench.progress import FinishedRequest, FinishedRun, NoProgress, Progress, StartedRun
from miner.cli.bench.report import units
from miner.cli.bench.report.tally import Tally
from miner.cli.output.errors import note
from miner.cli.output.sparkline import clock, sparkline
from miner.cli.output.style import Style, is_terminal
from miner.cli.output.tables import printable
from miner.cli.verbosity import logs_shown, quiet
from miner.core._typing import override
from miner.core.counted import counted

if TYPE_CHECKING:
    from rich.live import Live

_PERIOD = 0.25
"""Seconds between two draws."""
_LINE_PERIOD = 10.0
"""Seconds between two lines where there is no terminal."""
_SHORTEST = 8
"""Characters that a bar needs to say something."""


@contextmanager
def shown(runs: int) -> Iterator[Progress]:
    """Show a measurement of so many runs until the context ends; nothing with -q.

    Enter it before the measuring begins: it may import.
    """
    if quiet():
        yield NoProgress()
    elif is_terminal(sys.stderr) and not logs_shown() and find_spec("rich") is not None:
        view = _Screen(runs, sys.stderr)
        try:
            yield view
        finally:
            view.close()
    else:
        yield _Lines(runs)


class _Lines(Progress):
    """One line when a run begins, one when it ends, and one every ten seconds between."""

    def __init__(self, runs: int) -> None:
        self._runs = runs
        self._number = 0
        self._tally: Tally | None = None
        self._shown = 0.0
        self._style = Style(sys.stderr)

    @override
    def run_started(self, run: StartedRun, total: int) -> None:
        self._number += 1
        self._tally = Tally(run, self._number, total)
        self._shown = monotonic()
        self._begun(self._tally)

    @override
    def request_started(self) -> None:
        if self._tally is not None:
            self._tally.started += 1

    @override
    def tokens(self, count: int) -> None:
        if self._tally is not None:
            self._tally.tokens += count

    @override
    def request_finished(self, sample: FinishedRequest) -> None:
        if self._tally is not None:
            self._tally.finished(sample)
            self._maybe(self._tally)

    @override
    def run_finished(self, run: FinishedRun) -> None:
        if self._tally is not None:
            self._ended(self._tally, run)
            self._tally = None

    def _begun(self, tally: Tally) -> None:
        requests = f": {counted(tally.total, 'request')}" if tally.total else ""
        note(f"{printable(tally.name)}{_of(tally, self._runs)}{requests}")

    def _maybe(self, tally: Tally) -> None:
        now = monotonic()
        if now - self._shown >= _LINE_PERIOD:
            self._shown = now
            note(f"  {_counts(tally)}, {units.rate(tally.speed())} tokens/s{_left(tally)}")

    def _ended(self, tally: Tally, run: FinishedRun) -> None:
        note(f"  {_summary(run, self._style)}")


class _Screen(_Lines):
    """Redraws three lines; each run leaves one behind."""

    def __init__(self, runs: int, stream: TextIO) -> None:
        super().__init__(runs)
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=stream, highlight=False, soft_wrap=False)
        # No thread of its own: it would draw between two tokens whenever it likes.
        self._live: Live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=False)
        self._timer: asyncio.TimerHandle | None = None
        self._began = monotonic()
        self._live.start()
        self._draw()

    def close(self) -> None:
        """Erase what was drawn."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._live.stop()

    @override
    def _begun(self, tally: Tally) -> None:
        pass

    @override
    def _maybe(self, tally: Tally) -> None:
        pass

    @override
    def _ended(self, tally: Tally, run: FinishedRun) -> None:
        from rich.text import Text

        name = f"{printable(tally.name)}{_of(tally, self._runs)}"
        line = f"{name}: {_summary(run, self._style)}"
        self._console.print(Text.from_ansi(line), soft_wrap=True)

    def _draw(self) -> None:
        from rich.text import Text

        self._timer = asyncio.get_running_loop().call_later(_PERIOD, self._draw)
        width = self._console.width - 1
        if self._tally is None:
            doing = "preparing the target" if not self._number else "warming up"
            lines = [f"{doing} ({monotonic() - self._began:.0f} s)"]
        else:
            self._tally.mark()
            unicode = self._console.encoding.startswith("utf")
            lines = _picture(self._tally, self._runs, width, self._style, unicode=unicode)
        self._live.update(Text.from_ansi("\n".join(lines), no_wrap=True, overflow="crop"), refresh=True)


def _picture(tally: Tally, runs: int, width: int, style: Style, *, unicode: bool) -> list[str]:
    """The lines that stand on a terminal, none wider than `width`."""
    name = f"{printable(tally.name, limit=60)}{_of(tally, runs)}"
    end = f"{tally.ended}/{tally.total}{_left(tally)}" if tally.total else clock(tally.elapsed)
    bar = ""
    room = min(40, width - len(name) - len(end) - 4)
    if tally.total and room >= _SHORTEST:
        filled = min(room, room * tally.ended // tally.total)
        full, empty = ("█", "░") if unicode else ("#", ".")
        bar = f"{style.cyan(full * filled)}{style.dim(empty * (room - filled))}  "
    elif len(name) + 2 + len(end) > width:
        name = printable(tally.name, limit=max(4, width - len(end) - 2))
    speeds = tally.speeds()
    speed = f"{units.rate(speeds[-1] if speeds else 0.0)} tokens/s"
    room = max(4, width - len(speed) - 4)
    spark = sparkline(speeds[-room:], min(room, len(speeds)), unicode=unicode)
    counts = _counts(tally)[: width - 2]
    lines = [
        f"{style.bold(name)}  {bar}{end}",
        f"  {style.red(counts) if tally.failed else counts}",
        f"  {style.bold(speed)}  {style.green(spark)}",
    ]
    latency = [
        f"TTFT p{share} {units.seconds(value)}" for share in (50, 99) if (value := tally.ttft(share)) is not None
    ]
    if latency:
        lines.append(f"  {'  '.join(latency)}"[:width])
    return lines


def _of(tally: Tally, runs: int) -> str:
    return f" (run {tally.number} of {runs})" if runs > 1 else ""


def _counts(tally: Tally) -> str:
    """`4 in flight, 12 done, 0 failed`."""
    flying = max(0, tally.started - tally.ended)
    parts = [f"{flying} in flight", f"{tally.done} done", f"{tally.failed} failed"]
    if tally.cancelled:
        parts.append(f"{tally.cancelled} cancelled")
    return ", ".join(parts)


def _summary(run: FinishedRun, style: Style) -> str:
    """What came of a run, in one line; the figures are those of its table."""
    parts = [f"{run.completed} done in {units.seconds(run.duration)}"]
    if run.cancelled:
        parts.append(f"{run.cancelled} cancelled")
    if run.failed:
        codes = ", ".join(f"{count} {printable(code, limit=40)}" for code, count in run.errors.items())
        parts.append(style.red(f"{run.failed} failed ({codes})"))
    parts.append(f"{units.rate(run.output_throughput)} tokens/s")
    if run.ttft is not None:
        parts.append(f"TTFT p50 {units.seconds(run.ttft.p50)}")
    return ", ".join(parts)


def _left(tally: Tally) -> str:
    left = tally.left()
    return "" if left is None else f", {clock(left)} left"
