"""Background: tasks that run beside the requests, and are restarted when they fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from miner.errors import MinerError
from miner.gateway.errors import ErrorBoundary, cause_of

logger = logging.getLogger("miner.gateway")

_MIN_PAUSE = 0.5
_MAX_PAUSE = 30.0
_STEADY_SECONDS = 2.0
"""How long a task must run until it counts as running again."""


class Background:
    """The background tasks of one gateway.

    One that raises, or returns unexpectedly, is logged with its traceback and restarted after a pause that grows from
    0.5 to 30 s. Until it has run for 2 s it is in `problems`, which `/readyz` shows.
    """

    def __init__(self) -> None:
        self.problems: dict[str, str] = {}
        """The names of tasks that have failed, and why."""
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, work: Callable[[], Awaitable[None]], *, ends: bool = False) -> None:
        """Run `work` until `stop`.

        Args:
            name: for the log and `/readyz`: "key watcher".
            ends: whether it may return.
        """
        self._tasks.append(asyncio.create_task(self._run(name, work, ends), name=f"gateway {name}"))

    async def stop(self) -> None:
        """Cancel all of them and wait until they have ended."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, name: str, work: Callable[[], Awaitable[None]], ends: bool) -> None:
        loop, pause = asyncio.get_running_loop(), _MIN_PAUSE
        while True:
            began = loop.time()
            steady = loop.call_later(_STEADY_SECONDS, self.problems.pop, name, None)
            try:
                with ErrorBoundary():
                    await work()
                    if ends:
                        self.problems.pop(name, None)
                        return
                    raise RuntimeError("it returned")
            except MinerError as error:
                cause = cause_of(error)
                if loop.time() - began > _MAX_PAUSE:
                    pause = _MIN_PAUSE
                self.problems[name] = f"{type(cause).__name__}: {cause}"
                logger.error("The task %r has failed; restarting it in %.1f s.", name, pause, exc_info=cause)
            finally:
                steady.cancel()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _MAX_PAUSE)
