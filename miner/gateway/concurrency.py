"""The queue in front of a backend that has no queue: bounded concurrency, fair between clients."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from miner.config.sources import variable_of
from miner.core.fair_queue import Permits, QueueFullError
from miner.core.llms.contract.queue_client import QueueClient
from miner.core.llms.LLMService import LLMService
from miner.gateway.errors import RefusedError
from miner.gateway.settings import GatewaySettings

_DEFAULT_CONCURRENCY = 256
"""Requests sent at once to a backend of unknown concurrency: vLLM's own default."""


@dataclass(eq=False, slots=True)
class Permit:
    """The right of one request to be sent to the backend."""

    client: QueueClient
    weight: int
    """Requests that it counts as; 0: the backend has a queue of its own."""
    granted_at: float
    """Loop time in seconds."""


class BackendQueue:
    """Lets as many requests through as the backend works on at once; the others wait, fair between clients.

    A backend with a queue of its own gets them all, with their clients, unless `serve_max_running` sets a bound: a
    request waits in one queue, not in two.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._service: LLMService | None = None
        self._mean_seconds = 1.0
        """How long a permit is held, smoothed."""
        self._passed: set[Permit] = set()
        """Permits of requests that were passed on to the backend's own queue."""
        self.permits = Permits(settings.serve_max_running or _DEFAULT_CONCURRENCY, settings.serve_max_queued)

    @property
    def waiting(self) -> int:
        """Requests that wait here."""
        return self.permits.waiting

    @property
    def waiting_at_backend(self) -> int:
        """Requests that were let through and wait in the backend's own queue."""
        return sum(permit.client.waiting > 0 for permit in self._passed)

    def start(self, service: LLMService) -> None:
        """Take over the concurrency of a service, unless a setting says otherwise; with fallbacks it can change."""
        self._service = service
        limit = self._settings.serve_max_running or _concurrency_of(service)
        self.permits = Permits(limit, self._settings.serve_max_queued)

    async def acquire(self, client: QueueClient, weight: int) -> Permit:
        """Wait for a permit.

        Raises:
            RefusedError: 429: the queue is full, or the wait was longer than `serve_queue_timeout`.
        """
        loop, service = asyncio.get_running_loop(), self._service
        if service is not None and self._settings.serve_max_running is None:
            if service.queues_requests:
                permit = Permit(client, 0, loop.time())
                self._passed.add(permit)
                return permit
            limit = _concurrency_of(service)
            if limit != self.permits.limit:
                self.permits.resize(limit)
        seconds, began = self._settings.serve_queue_timeout, loop.time()
        try:
            weight = await self.permits.acquire(client.in_queue, seconds, weight)
        except QueueFullError:
            raise self._overloaded("Too many requests are waiting. Please try again later.") from None
        except TimeoutError:
            raise self._overloaded(f"The request waited in the queue for {seconds:g} s. Please try again.") from None
        now = loop.time()
        client.record(now - began)
        return Permit(client, weight, now)

    def release(self, permit: Permit) -> None:
        """Release a permit: the request has ended."""
        if permit.weight == 0:
            self._passed.discard(permit)
            return
        held = asyncio.get_running_loop().time() - permit.granted_at
        self._mean_seconds += 0.1 * (held - self._mean_seconds)
        self.permits.release(permit.client.in_queue, permit.weight)

    def _overloaded(self, message: str) -> RefusedError:
        seconds = self._mean_seconds * (self.permits.waiting + 1) / self.permits.limit
        return RefusedError(429, "overloaded", message, retry_after=math.ceil(min(max(seconds, 1), 60)))


def ignored_queue_settings(service: LLMService, settings: GatewaySettings) -> list[str]:
    """A line for each setting of this queue that is set and has no effect, because the backend queues by itself."""
    if not service.queues_requests or settings.serve_max_running is not None:
        return []
    instead = {"serve_max_queued": "MINER_MAX_QUEUE", "serve_queue_timeout": "MINER_QUEUE_TIMEOUT"}
    return [
        f"{variable_of(name)} has no effect with {service.name}, whose engines have a queue of their own: set {other}, "
        f"or MINER_SERVE_MAX_RUNNING to queue in the gateway."
        for name, other in instead.items()
        if name in settings.model_fields_set
    ]


def _concurrency_of(service: LLMService) -> int:
    known = service.known_concurrency
    return _DEFAULT_CONCURRENCY if known is None else max(1, known)
