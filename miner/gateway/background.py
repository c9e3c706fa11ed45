"""Background: tasks that run beside the requests, and are started again when they die."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from miner.errors import MinerError
from miner.gateway.contained import Contained
from miner.gateway.errors import InternalServerError

__all__ = ["Background"]

logger = logging.getLogger("miner.gateway")

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
_STEADY_SECONDS = 2.0
"""How long a task must run until it counts as running again."""


class Background:
    """The background tasks of one gateway.

    One that raises, or that returns though it should not, is logged with its traceback and started again after a pause
    that grows from 0.5 to 30 s. Until it has run for 2 s it stands in `problems`, which `/readyz` shows.
    """

    def __init__(self) -> None:
        self.problems: dict[str, str] = {}
        """What is down, and why."""
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, work: Callable[[], Awaitable[None]], *, ends: bool = False) -> None:
        """Run `work` until `stop`.

        Args:
            name: for the log and `/readyz`: "key watcher".
            ends: it may return, and is done then.
        """
        self._tasks.append(asyncio.create_task(self._keep(name, work, ends), name=f"gateway {name}"))

    async def stop(self) -> None:
        """Cancel all of them and wait for their ends."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, name: str, work: Callable[[], Awaitable[None]], ends: bool) -> None:
        loop, pause = asyncio.get_running_loop(), _FIRST_PAUSE
        while True:
            began = loop.time()
            steady = loop.call_later(_STEADY_SECONDS, self.problems.pop, name, None)
            try:
                with Contained():
                    await work()
                    if ends:
                        self.problems.pop(name, None)
                        return
                    raise RuntimeError("It returned.")
            except MinerError as error:
                cause = (error.__cause__ if isinstance(error, InternalServerError) else None) or error
                if loop.time() - began > _LONGEST_PAUSE:
                    pause = _FIRST_PAUSE
                self.problems[name] = f"{type(cause).__name__}: {cause}"
                logger.error("The %s has stopped; it starts again in %.1f s.", name, pause, exc_info=cause)
            finally:
                steady.cancel()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
