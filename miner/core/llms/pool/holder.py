"""Holder: one service of the pool, with its queue and the calls that use it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from miner.config.file.schema import Backend
from miner.core.fair_queue import Permits, QueueFullError
from miner.core.llms.contract.queue_client import current_client
from miner.core.llms.LLMService import LLMService
from miner.core.llms.pool.plan import ServicePlan
from miner.core.model_card import RunningModel
from miner.core.wire import EngineStatus, Health
from miner.errors import BackendOverloadedError, MinerError, ServiceClosedError

logger = logging.getLogger("miner.pool")

_DEFAULT_CONCURRENCY = 256
"""Requests sent at once to a server of unknown concurrency: vLLM's own default."""


class Holder:
    """A service and what it is used for. Belongs to one event loop.

    Args:
        max_queue: requests that may wait for a service without a queue of its own.
        queue_timeout: seconds that they wait at most.
    """

    def __init__(self, plan: ServicePlan, service: LLMService, *, max_queue: int, queue_timeout: float) -> None:
        self.plan = plan
        self.key = plan.identity
        self.service = service
        self.calls = 0
        """Calls that use it now."""
        self._queue_timeout = queue_timeout
        self._permits = Permits(_DEFAULT_CONCURRENCY, max_queue)
        self._retired = False
        self._closing: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Requests that wait for a permit."""
        return self._permits.waiting

    @property
    def concurrency(self) -> int | None:
        """Requests that its server works on at once; None: nobody says."""
        return self.plan.table.concurrency or self.service.known_concurrency

    @property
    def answers(self) -> bool:
        """Whether it can be asked without starting a command."""
        return True

    async def health(self) -> Health:
        """Its health; starts nothing."""
        return await self.service.health()

    @asynccontextmanager
    async def use(self, *, queued: bool = True, keep_alive: float | str | None = None) -> AsyncIterator[LLMService]:
        """Hold the service for one call, and a permit of its queue where it has none itself.

        Args:
            queued: whether the call makes the engine compute.
            keep_alive: how long a command stays loaded if this call was the last; other services get it with requests.

        Raises:
            BackendOverloadedError: too many wait, or it took too long.
            ServiceClosedError: it is closed: `Members.find` and `current` return none that is, as of then.
        """
        self._call_begins()
        try:
            if queued and not self.service.queues_requests:
                async with self._permit():
                    yield self.service
            else:
                yield self.service
        finally:
            self.calls -= 1
            self._call_ended()

    def _call_begins(self) -> None:
        if self.closed:
            raise ServiceClosedError(
                f"The backend {self.plan.backend!r} is not served any more.", backend=self.plan.backend,
                hint="Send the request again.",
            )  # fmt: skip
        self.calls += 1

    def _call_ended(self) -> None:
        if self._retired and not self.calls:
            self._close_soon()

    def with_slots(self, status: EngineStatus) -> EngineStatus:
        """The status of its engine, with the slots that its server has said it has."""
        return status

    def taken(self) -> RunningModel | None:
        """What its command takes, for each of its models; None: it has none, or it does not run."""
        return None

    @property
    def manager(self) -> LLMService:
        """What loads, unloads, resets and pins its models."""
        return self.service

    @asynccontextmanager
    async def managed(self) -> AsyncIterator[LLMService]:
        """Hold the manager for one call."""
        async with self.use(queued=False) as service:
            yield service

    @asynccontextmanager
    async def _permit(self) -> AsyncIterator[None]:
        known = self.concurrency
        limit = max(1, known) if known is not None else _DEFAULT_CONCURRENCY
        if limit != self._permits.limit:
            self._permits.resize(limit)
        client, loop = current_client(), asyncio.get_running_loop()
        began = loop.time()
        try:
            with client.wait():
                await self._permits.acquire(client.in_queue, self._queue_timeout)
        except QueueFullError:
            raise self._overloaded("too many requests wait already", "max_queue") from None
        except TimeoutError:
            why = f"no slot was free within {self._queue_timeout:g} s"
            raise self._overloaded(why, "queue_timeout") from None
        client.record(loop.time() - began)
        try:
            yield
        finally:
            self._permits.release(client.in_queue)

    def _overloaded(self, why: str, setting: str) -> BackendOverloadedError:
        return BackendOverloadedError(
            f"The backend {self.plan.backend!r} is overloaded: {why}.",
            backend=self.plan.backend,
            retry_after=2.0,
            hint="Try again later.",
            operator_hint=f"Raise limits.{setting}, or backends.{self.plan.backend}.concurrency.",
        )

    def retire(self) -> None:
        """No model uses it any more: close it when its calls are done."""
        self._retired = True
        if not self.calls:
            self._close_soon()

    def revive(self) -> None:
        """A model uses it again."""
        self._retired = False

    @property
    def closed(self) -> bool:
        """Whether it was closed, or is being closed."""
        return self._closing is not None

    def _close_soon(self) -> None:
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())

    async def _close(self) -> None:
        try:
            await self.service.aclose()
        except MinerError as error:
            logger.warning("The backend %r did not close cleanly: %s", self.plan.backend, error)

    def discard(self) -> None:
        """It was made and will not be used."""

    def change(self, table: Backend, max_queue: int, queue_timeout: float) -> None:
        """Take over what can change of a service that stays, for the requests that come."""
        self.plan = replace(self.plan, table=table)
        self._queue_timeout = queue_timeout
        self._permits.max_queue = max_queue

    async def aclose(self) -> None:
        """Close it now: calls end with an error."""
        if self._closing is not None:
            await self._closing
        else:
            await self.service.aclose()
