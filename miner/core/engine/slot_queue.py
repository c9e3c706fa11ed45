"""Requests that wait for a slot of one engine, fair between clients, and estimates of the wait.

Plain data and synchronous methods: the scheduler owns the queues and decides; nothing here waits or starts anything.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from miner.core.engine.spec import Engine, EngineAddress
from miner.core.fair_queue import Client, FairQueue
from miner.core.wire import Progress


@dataclass(eq=False, slots=True)
class Lease:
    """One slot of a ready engine, for one request."""

    address: EngineAddress
    queue_seconds: float
    """Seconds of waiting for a slot, or for memory to load."""
    load_seconds: float
    """Seconds of waiting while the engine loaded."""
    engine: Engine
    granted_at: float
    """Loop time."""
    run_number: int
    """The run of the engine that the slot belongs to."""


@dataclass(eq=False, slots=True)
class Waiter:
    """One request that waits. Its future gets a lease or an error, or is cancelled with the task that awaits it."""

    client: Client
    """The request's client."""
    future: asyncio.Future[Lease]
    arrived: float
    """Loop time in seconds."""
    keep_alive: float | None = None
    on_progress: Callable[[Progress], None] | None = None
    ahead: int = 0
    """Requests ever ahead of this one."""
    position: int | None = None
    """How many of them were left at the last report."""

    def report(self, progress: Progress) -> None:
        """Call `on_progress` soon; an exception in the callback is only logged."""
        if self.on_progress is not None and not self.future.done():
            # Not called from here: an error in it must not cut a scheduling pass in half.
            asyncio.get_running_loop().call_soon(self.on_progress, progress)


class SlotQueue:
    """The queue of one engine. Cancelled waiters are skipped; their tasks remove them."""

    def __init__(self) -> None:
        self.waiters: FairQueue[Waiter] = FairQueue()
        """By client, with the slots that each client holds."""
        self._holders: deque[Client] = deque()
        """The client of each slot in use, the oldest grant first."""
        self._listeners = 0
        """Waiters with a progress callback."""

    def __len__(self) -> int:
        return len(self.waiters)

    def __bool__(self) -> bool:
        return self.oldest is not None

    @property
    def oldest(self) -> Waiter | None:
        """The waiter that has waited longest."""
        while (waiter := next(iter(self.waiters), None)) is not None and waiter.future.done():
            self.discard(waiter)
        return waiter

    def arrived_by(self, loop_time: float) -> int:
        """Number of waiters that arrived at that loop time or before."""
        return sum(1 for _ in itertools.takewhile(lambda waiter: waiter.arrived <= loop_time, self.waiters))

    def push(self, waiter: Waiter) -> None:
        """Add a request."""
        self._listeners += waiter.on_progress is not None
        self.waiters.push(waiter.client, waiter)

    def next(self) -> Waiter | None:
        """The waiter that gets the next slot; None if the queue is empty."""
        while (waiter := self.waiters.next()) is not None and waiter.future.done():
            self.discard(waiter)
        return waiter

    def grant(self, waiter: Waiter, lease: Lease) -> None:
        """Give a slot to a waiter, whose client holds it until `release`."""
        self._holders.append(waiter.client)
        self._listeners -= waiter.on_progress is not None
        self.waiters.grant(waiter)
        waiter.future.set_result(lease)

    def release(self, client: Client) -> None:
        """Release a slot of a client."""
        self._holders.remove(client)
        self.waiters.release(client)

    def release_all(self) -> None:
        """Release all slots: the engine has exited."""
        self._holders.clear()
        self.waiters.release_all()

    def discard(self, waiter: Waiter) -> None:
        """Remove a waiter; nothing if it is not here."""
        if waiter in self.waiters:
            self._listeners -= waiter.on_progress is not None
            self.waiters.discard(waiter)

    def refuse(self, waiter: Waiter, error: Exception) -> None:
        """End a wait with an error."""
        self.discard(waiter)
        if not waiter.future.done():
            waiter.future.set_exception(error)

    @property
    def has_listeners(self) -> bool:
        """Whether any waiter wants progress."""
        return self._listeners > 0

    def report_positions(self, slots: int) -> None:
        """Report its position to each listener for which it has changed.

        Args:
            slots: of the engine, those in use included.
        """
        if not self._listeners:
            return
        for position, waiter in enumerate(self.waiters.in_order(slots - len(self._holders), self._holders)):
            before = waiter.position
            if before != position:
                waiter.position = position
                waiter.ahead += position if before is None else max(0, position - before)  # others were let past it
                waiter.report(Progress(done=waiter.ahead - position, total=waiter.ahead, stage="queue"))

    def report_load(self, done: int, total: int) -> None:
        """Report to each listener how far the load is, in bytes."""
        if self._listeners:
            for waiter in self.waiters:
                waiter.report(Progress(done=done, total=total, stage="load"))


class ServiceTimes:
    """How long a slot is held, from recent requests, and the `Retry-After` that follows from it."""

    _WEIGHT = 0.2
    """Weight of the newest request in the moving average: about the last ten count."""

    def __init__(self) -> None:
        self.mean: float | None = None
        """Seconds; None before the first."""

    def record(self, seconds: float) -> None:
        """Count one request that held its slot for `seconds`."""
        self.mean = seconds if self.mean is None else self.mean + self._WEIGHT * (seconds - self.mean)

    def retry_after(self, waiting: int, slots: int, *, most: float) -> float:
        """Seconds until `slots` slots have served `waiting` requests: at least 1, at most `most`."""
        return max(1.0, min(most, (waiting + 1) * (self.mean or 0.0) / slots))
