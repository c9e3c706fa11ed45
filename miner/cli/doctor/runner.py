"""Runs all checks at once, each in a thread of its own and with a bound: none can hold up or end the others.

A check that hangs is left behind in its thread, which does not keep the process alive.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from miner.cli.doctor.facts import Facts
from miner.cli.doctor.row import Check, Row
from miner.errors import MinerError

logger = logging.getLogger("miner.doctor")

_TICK_SECONDS = 0.2
_CLOSE_SECONDS = 5.0
"""For a check that was cancelled to close what it has opened, such as an engine."""


@dataclass
class Done:
    """A check and what it found."""

    check: Check
    rows: list[Row] = field(default_factory=list)
    seconds: float | None = None
    """None: it runs."""


class _Running:
    """One check in its thread."""

    def __init__(self, check: Check, facts: Facts, events: queue.SimpleQueue[_Running]) -> None:
        self.done = Done(check)
        self.finished = False
        self.began = time.monotonic()
        self._facts, self._events = facts, events
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self.thread = threading.Thread(target=self._run, daemon=True, name=f"doctor {check.name}")
        self.thread.start()

    def cancel(self) -> None:
        """Ask an asynchronous check to end; another one cannot be ended."""
        loop, task = self._loop, self._task
        if loop is not None and task is not None:
            try:
                loop.call_soon_threadsafe(task.cancel)
            except RuntimeError:  # it is closed: the check has just ended
                pass

    def _run(self) -> None:
        try:
            found = self.done.check.run(self._facts)
            if isinstance(found, AsyncGenerator):
                asyncio.run(self._drain(found))
            else:
                self._take(found)
        except BaseException as error:  # a check that crashes is a row, whatever it raises
            logger.debug("The check %r failed.", self.done.check.name, exc_info=True)
            self.done.rows.append(_crashed(self.done.check, error))
        self.finished = True
        self._events.put(self)

    def _take(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self.done.rows.append(row)

    async def _drain(self, rows: AsyncGenerator[Row, None]) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        try:
            async for row in rows:
                self.done.rows.append(row)
        finally:
            await rows.aclose()


def run_checks(
    checks: Sequence[Check], facts: Facts, on_tick: Callable[[list[str]], None] = lambda pending: None
) -> list[Done]:
    """Run the checks and return what they found, in their order.

    Args:
        on_tick: called several times a second with the names of those that run.
    """
    events: queue.SimpleQueue[_Running] = queue.SimpleQueue()
    running = [_Running(check, facts, events) for check in checks]
    pending, abandoned = list(running), list[_Running]()
    try:
        while pending:
            on_tick([each.done.check.name for each in pending])
            try:
                events.get(timeout=_TICK_SECONDS)
            except queue.Empty:
                pass
            now = time.monotonic()
            for each in list(pending):
                late = now - each.began > each.done.check.seconds
                if not each.finished and not late:
                    continue
                pending.remove(each)
                each.done.seconds = now - each.began
                if not each.finished:
                    abandoned.append(each)
                    each.cancel()
    finally:
        for each in (*pending, *abandoned):
            each.cancel()
        end = time.monotonic() + _CLOSE_SECONDS
        for each in (*pending, *abandoned):
            if each._task is not None:
                each.thread.join(max(0.0, end - time.monotonic()))
    return [_settled(each, each in abandoned) for each in running]


def _settled(each: _Running, hung: bool) -> Done:
    done = Done(each.done.check, list(each.done.rows), each.done.seconds)
    if hung:
        done.rows = [row for row in done.rows if not row.summary.startswith(_CANCELLED)]
        done.rows.append(
            Row(
                done.check.name,
                "problem",
                f"did not finish within {done.check.seconds:g} s and was left behind",
                hint="Something that it looks at hangs: a disk on a network, a driver, a server, another package.",
                seen={"timeout": done.check.seconds},
            )
        )
    return done


_CANCELLED = "this check was cancelled"


def _crashed(check: Check, error: BaseException) -> Row:
    if isinstance(error, asyncio.CancelledError):
        return Row(check.name, "problem", _CANCELLED)
    if isinstance(error, MinerError):
        return Row(check.name, "problem", error.message.rstrip("."), hint=error.hints_for_people)
    text = " ".join(str(error).split())[:300]
    return Row(
        check.name,
        "problem",
        f"this check failed: {type(error).__name__}{f': {text}' if text else ''}",
        fix="miner doctor --debug",
        hint="The other checks are not affected by it.",
        seen={"error": type(error).__name__},
    )
