"""When a request is sent again: only what can help, only while nothing of the answer has come, only so long."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from miner.core.http.crash_budget import budget_scope, current_budget
from miner.errors import BackendError, BackendOverloadedError, BackendUnavailableError

if TYPE_CHECKING:
    from miner.core.llms.LLMService import LLMService

__all__ = ["Retries", "retried"]

logger = logging.getLogger("miner.retry")

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 30.0

T = TypeVar("T")


class Retries:
    """The attempts of one request.

    Only an engine that cannot be reached, or that says it is busy, is asked again. Our own full queue is not
    (`status` is None there): its answer is meant to come at once. What an engine may have died of is sent again once
    at most, what the transport and other backends have sent counted too.

    Args:
        limit: how often to send again.
        deadline: the event loop's time after which there is no more waiting; None: no bound but the limit.
    """

    def __init__(self, limit: int, deadline: float | None = None) -> None:
        self._left = limit
        self._deadline = deadline
        self.count = 0
        """How often it was sent again."""
        self.budget = current_budget()

    async def pause_or_raise(self, error: BackendError) -> None:
        """Wait until the next attempt; raises the error where there is none."""
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
        logger.warning("%s Sent again in %.1f s (retry %d).", error.message, pause, self.count)
        await asyncio.sleep(pause)


async def retried(service: LLMService, work: Callable[[], Awaitable[T]], retries: Retries | None = None) -> T:
    """What `work` returns, which is called again where that can help.

    Args:
        retries: of the request that this is a part of; None: it is a request by itself.
    """
    retries = retries or Retries(service._settings.max_retries)
    with budget_scope(retries.budget):
        while True:
            try:
                return await work()
            except BackendError as error:
                await retries.pause_or_raise(error)
                service.retries += 1


def _may_help(error: BackendError) -> bool:
    if isinstance(error, BackendOverloadedError):
        return error.status is not None
    return isinstance(error, BackendUnavailableError)
