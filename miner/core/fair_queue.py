"""A queue that is fair between clients, with batch work behind interactive requests, and permits granted through one.

The next permit goes to the client that holds the fewest and, among those, to the one whose last grant is the oldest. So
a client with a thousand waiting requests delays another's first one by one grant at most. Within a client it is first
come, first served; a single client therefore sees a plain FIFO. The batch work of a client counts as another client,
which gets a permit only while no interactive request waits.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

W = TypeVar("W", bound=Hashable)

_arrivals = itertools.count()


class BatchClient(NamedTuple):
    """The batch work of a client, which waits behind all interactive requests."""

    name: str


Client = str | BatchClient
"""Who waits: the name of a client, or its batch work."""


class FairQueue(Generic[W]):
    """Waiters of several clients, and the permits that each client holds. Plain data: nothing waits here."""

    def __init__(self) -> None:
        self._by_client: dict[Client, OrderedDict[W, int]] = {}
        """Waiters with their arrival numbers, in order of arrival; clients in the order of their last grants."""
        self._clients: OrderedDict[W, Client] = OrderedDict()
        """The client of each waiter, in order of arrival."""
        self._held: Counter[Client] = Counter()

    def __len__(self) -> int:
        return len(self._clients)

    def __contains__(self, waiter: object) -> bool:
        return waiter in self._clients

    def __iter__(self) -> Iterator[W]:
        """All waiters, in order of arrival."""
        return iter(self._clients)

    def push(self, client: Client, waiter: W) -> None:
        """Add a waiter."""
        self._by_client.setdefault(client, OrderedDict())[waiter] = next(_arrivals)
        self._clients[waiter] = client

    def discard(self, waiter: W) -> None:
        """Remove a waiter, wherever it stands; nothing if it is not here."""
        client = self._clients.pop(waiter, None)
        if client is not None:
            waiters = self._by_client[client]
            del waiters[waiter]
            if not waiters:
                del self._by_client[client]

    def next(self) -> W | None:
        """The waiter that gets the next permit; None if the queue is empty."""
        if not self._by_client:
            return None
        client = min(self._by_client, key=_rank(self._held))  # the first of equals: its last grant is the oldest
        return next(iter(self._by_client[client]))

    def in_order(self, free: int, holders: Iterable[Client]) -> Iterator[W]:
        """All waiters in the order of their grants, if each takes one permit.

        Args:
            free: available permits.
            holders: clients that hold the others, in the expected order of release.
        """
        held, releases = self._held.copy(), deque(holders)
        waiting = {client: deque(waiters) for client, waiters in self._by_client.items()}
        while waiting:
            if free > 0:
                free -= 1
            elif releases:
                held[releases.popleft()] -= 1
            client = min(waiting, key=_rank(held))
            waiters = waiting.pop(client)
            yield waiters.popleft()
            if waiters:
                waiting[client] = waiters  # last among equals, as in `grant`
            held[client] += 1
            releases.append(client)

    def grant(self, waiter: W, weight: int = 1) -> None:
        """Remove a waiter and give its client `weight` permits; the client is last among equals then."""
        client = self._clients[waiter]
        self.discard(waiter)
        if client in self._by_client:
            self._by_client[client] = self._by_client.pop(client)
        self.hold(client, weight)

    def hold(self, client: Client, weight: int) -> None:
        """Count permits that a client got without waiting."""
        self._held[client] += weight

    def release(self, client: Client, weight: int = 1) -> None:
        """Release permits of a client."""
        self._held[client] -= weight
        if self._held[client] <= 0:
            del self._held[client]

    def release_all(self) -> None:
        """Release all permits."""
        self._held.clear()

    def waiting_by_client(self) -> dict[Client, int]:
        """Number of waiters of each client that has any."""
        return {client: len(waiters) for client, waiters in self._by_client.items()}

    def newest(self, client: Client) -> tuple[int, W] | None:
        """Arrival number and last waiter of a client; None if it has none."""
        waiters = self._by_client.get(client)
        if not waiters:
            return None
        waiter = next(reversed(waiters))
        return waiters[waiter], waiter


def _rank(held: Counter[Client]) -> Callable[[Client], tuple[bool, int]]:
    """The order of clients: interactive ones first, then by the permits that they hold."""
    return lambda client: (isinstance(client, BatchClient), held[client])


def waiter_to_drop(client: Client, queues: Iterable[FairQueue[W]]) -> W | None:
    """The waiter to drop for a new one of `client` when the queues are full: the newest of the client with the most.

    Batch work is dropped before interactive requests, and never the other way round. None: `client` itself would have
    the most.
    """
    queues = list(queues)
    waiting: Counter[Client] = Counter()
    for queue in queues:
        waiting.update(queue.waiting_by_client())
    batch: Counter[Client] = Counter({each: count for each, count in waiting.items() if isinstance(each, BatchClient)})
    if batch and not isinstance(client, BatchClient):
        greedy = max(batch, key=batch.__getitem__)
    else:
        candidates = batch if isinstance(client, BatchClient) else waiting
        most = max(candidates, key=candidates.__getitem__, default=None)
        if most is None or candidates[most] <= candidates[client] + 1:
            return None
        greedy = most
    return max(newest for queue in queues if (newest := queue.newest(greedy)) is not None)[1]


class QueueFullError(Exception):
    """Too many wait already, or a client with fewer waiters took the place."""


@dataclass(slots=True, eq=False)
class _Waiter:
    client: Client
    weight: int
    granted: asyncio.Future[bool]
    """True: it has its permits; False: it was dropped."""


class Permits:
    """Bounded concurrency with a fair queue in front. Belongs to one event loop.

    Args:
        limit: maximum permits in use.
        max_queue: maximum waiters.
    """

    def __init__(self, limit: int, max_queue: int) -> None:
        self.limit = limit
        self.held = 0
        self.max_queue = max_queue
        self._queue: FairQueue[_Waiter] = FairQueue()

    @property
    def waiting(self) -> int:
        """Number of waiters."""
        return len(self._queue)

    def resize(self, limit: int) -> None:
        """Change how many permits are held at once, from now on."""
        self.limit = limit
        self._grant()

    async def acquire(self, client: Client, seconds: float, weight: int = 1) -> int:
        """Wait for permits; return their number, for `release`.

        Args:
            client: who waits.
            seconds: to wait at most.
            weight: permits that it takes; no more than all together.

        Raises:
            QueueFullError: too many wait, or this client has the most waiters and another client's request arrives.
            TimeoutError: it took longer than `seconds`.
        """
        weight = max(1, min(weight, self.limit))
        if not self._queue and self._fits(weight):
            self._queue.hold(client, weight)
            self.held += weight
            return weight
        if len(self._queue) >= self.max_queue:
            self._drop_for(client)
        waiter = _Waiter(client, weight, asyncio.get_running_loop().create_future())
        self._queue.push(client, waiter)
        granted = False
        try:
            async with asyncio.timeout(seconds):
                granted = await waiter.granted
            if not granted:
                raise QueueFullError
            return weight
        finally:
            if not granted:
                self._give_up(waiter)

    def release(self, client: Client, weight: int = 1) -> None:
        """Give permits back."""
        self._queue.release(client, weight)
        self.held -= weight
        self._grant()

    def _grant(self) -> None:
        while (waiter := self._queue.next()) is not None and self._fits(waiter.weight):
            if waiter.granted.done():  # cancelled just now
                self._queue.discard(waiter)
                continue
            self._queue.grant(waiter, waiter.weight)
            self.held += waiter.weight
            waiter.granted.set_result(True)

    def _fits(self, weight: int) -> bool:
        return self.held + weight <= self.limit

    def _drop_for(self, client: Client) -> None:
        dropped = waiter_to_drop(client, [self._queue])
        if dropped is None:
            raise QueueFullError
        self._queue.discard(dropped)
        if not dropped.granted.done():
            dropped.granted.set_result(False)

    def _give_up(self, waiter: _Waiter) -> None:
        if waiter.granted.done() and not waiter.granted.cancelled():
            if waiter.granted.result():  # it was granted in the same step and cannot be used
                self.release(waiter.client, waiter.weight)
            return
        self._queue.discard(waiter)
        self._grant()  # it may have been a heavy one that blocked the others
