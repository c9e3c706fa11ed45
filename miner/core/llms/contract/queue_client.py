"""The client of a request in an engine's queue, where one service serves several clients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from miner.core.fair_queue import BatchClient, Client


class QueueClient:
    """The client of one request to a service, and its queue wait.

    A service that has a queue of its own (`LLMService.queues_requests`) is fair between clients, by `name`, and
    serves batch work only while no interactive request waits.
    """

    def __init__(self, name: str = "", *, batch: bool = False) -> None:
        self.name = name
        self.batch = batch
        self.waiting = 0
        """Requests to engines in a queue now: a call with `n` choices makes several."""
        self.waited: float | None = None
        """Longest queue wait in seconds, load excluded; None before a slot was acquired."""

    @property
    def in_queue(self) -> Client:
        """Who it is to a queue."""
        return BatchClient(self.name) if self.batch else self.name

    @contextmanager
    def wait(self) -> Iterator[None]:
        """Count a request as waiting for the length of the block."""
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    def record(self, seconds: float) -> None:
        """Record that a slot was acquired after `seconds`."""
        self.waited = max(seconds, self.waited or 0.0)


_client: ContextVar[QueueClient | None] = ContextVar("miner_queue_client", default=None)


def set_client(client: QueueClient) -> None:
    """Set the client of the requests of this task and of those that it starts from now on."""
    _client.set(client)


def current_client() -> QueueClient:
    """Return the client of this task's requests; one without a name if none was set."""
    return _client.get() or QueueClient()
