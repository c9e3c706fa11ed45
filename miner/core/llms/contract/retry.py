"""Retries: only errors that are worth it, before any of the response has arrived, within the request's timeout."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from miner.core.http.crash_budget import budget_scope, current_budget
from miner.core.llms.contract.backend import Backend
from miner.errors import BackendError, BackendOverloadedError, BackendUnavailableError

logger = logging.getLogger("miner.retry")

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 30.0

T = TypeVar("T")


class Retries:
    """The retries of one request.

    Only an engine that is unreachable or busy is retried; an EngineCrashedError is not, although it is `retryable`:
    that is for the caller. Our own full queue is not (`status` is None there): its error is raised at once. A request
    that an engine may have crashed on is retried once at most, the transport's and other backends' attempts included.

    Args:
        backend: has the limit (MINER_MAX_RETRIES) and counts the retries.
        deadline: the event loop's time after which nothing is retried; None: no deadline.
    """

    def __init__(self, backend: Backend, deadline: float | None = None) -> None:
        self._backend = backend
        self._left = backend._settings.max_retries
        self._deadline = deadline
        self.count = 0
        """Retries so far."""
        self.budget = current_budget()

    async def pause_or_raise(self, error: BackendError) -> None:
        """Wait until the next attempt; raises the error if there is none."""
        self.budget.crashes += error.engine_died
        if self._left <= 0 or not error.retryable or not _may_help(error) or self.budget.exhausted:
            raise error
        pause = random.uniform(0.5, 1.0) * _FIRST_PAUSE * 4**self.count
        if error.retry_after is not None:
            pause = max(pause, error.retry_after)
        if pause > _LONGEST_PAUSE or (
            self._deadline is not None and asyncio.get_running_loop().time() + pause >= self._deadline
        ):
            raise error
        self._left -= 1
        self.count += 1
        logger.warning("%s Retrying in %.1f s (retry %d).", error.message, pause, self.count)
        await asyncio.sleep(pause)
        self._backend.retries += 1

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run `work` with retries; return its result."""
        with budget_scope(self.budget):
            while True:
                try:
                    return await work()
                except BackendError as error:
                    await self.pause_or_raise(error)


def _may_help(error: BackendError) -> bool:
    if isinstance(error, BackendOverloadedError):
        return error.status is not None
    return isinstance(error, BackendUnavailableError)
