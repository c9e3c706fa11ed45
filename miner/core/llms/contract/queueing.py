"""Whose request waits in a queue in front of an engine, where one service serves several clients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class QueueClient:
    """The client of one request to a service, and how its waiting goes.

    A service that has a queue of its own (`LLMService.queues_requests`) is fair between clients by their names.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.waiting = 0
        """Requests to engines that wait now: a call for several replies is several of them."""
        self.waited: float | None = None
        """Seconds that the one which waited longest did so, a load not counted; None before a slot was had."""

    @contextmanager
    def wait(self) -> Iterator[None]:
        """Count a request as waiting for the length of the block."""
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    def record(self, seconds: float) -> None:
        """A slot was had after so long."""
        self.waited = max(seconds, self.waited or 0.0)


_client: ContextVar[QueueClient | None] = ContextVar("miner_queue_client", default=None)


def set_client(client: QueueClient) -> None:
    """Set the client of the requests of this task and of those that it starts from now on."""
    _client.set(client)


def current_client() -> QueueClient:
    """Return the client of this task's requests; one without a name if none was set."""
    return _client.get() or QueueClient()
