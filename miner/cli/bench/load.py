"""How requests are sent: a closed loop keeps so many in flight, an open one sends them at random times at a rate."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any

from miner.cli.bench.conversation import Conversation
from miner.cli.bench.measure import Measurement
from miner.cli.bench.sender import BenchRequest

Take = Callable[[], Conversation | None]
"""Returns the next conversation; None: there are no more."""
Perform = Callable[[BenchRequest], Coroutine[Any, Any, Measurement]]

_AT_ONCE = 64
_PAUSE = 0.25
"""Seconds that a loop for a time waits after a failure: a server that refuses at once would be sent thousands."""


class Deadline:
    """The end of a run for a time; without one, never."""

    def __init__(self, seconds: float | None) -> None:
        self._end = math.inf if seconds is None else perf_counter() + seconds
        self.timed = seconds is not None

    @property
    def left(self) -> float:
        """Seconds until then."""
        return self._end - perf_counter()


async def closed_loop(take: Take, perform: Perform, concurrency: int, deadline: Deadline) -> None:
    """Keep `concurrency` requests in flight until there are no more conversations, or the time is over; those in flight
    then are waited for.
    """
    more = True

    async def worker() -> None:
        nonlocal more
        while deadline.left > 0:
            if (conversation := take()) is None:
                more = False
                return
            last = await _hold(conversation, perform, deadline)
            if deadline.timed and last is not None and last.code is not None:
                await asyncio.sleep(max(0.0, min(last.retry_after or _PAUSE, deadline.left)))

    async with asyncio.TaskGroup() as group:
        for number in range(concurrency):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)  # those before begin
            if not more:
                break
            group.create_task(worker())


async def open_loop(take: Take, perform: Perform, arrivals: list[float], deadline: Deadline) -> None:
    """Start a conversation at each of the times (seconds from now), however many are in flight.

    Args:
        deadline: after it no conversation goes on; all arrive before.
    """
    began = perf_counter()
    async with asyncio.TaskGroup() as group:
        for arrival in arrivals:
            if (wait := began + arrival - perf_counter()) > 0:
                await asyncio.sleep(wait)
            if (conversation := take()) is None:
                break
            group.create_task(_hold(conversation, perform, deadline))


def arrival_times(rate: float, count: int, burstiness: float, seed: int) -> list[float]:
    """When each of `count` requests is sent, as `vllm bench serve` draws them: the gaps have a gamma distribution of
    the shape `burstiness` (1: exponential, a Poisson process), scaled so that the last comes at `count / rate`.
    """
    source = random.Random(f"arrivals {seed} {rate}")
    times, now = [], 0.0
    for _ in range(count):
        now += source.gammavariate(burstiness, 1 / (rate * burstiness))
        times.append(now)
    factor = count / rate / now if now > 0 else 1.0
    return [time * factor for time in times]


async def _hold(conversation: Conversation, perform: Perform, deadline: Deadline) -> Measurement | None:
    """Send the requests of a conversation, each after the response to the one before; one that fails is the last."""
    last: Measurement | None = None
    while len(conversation) and (last is None or (last.completed and deadline.left > 0)):
        last = await perform(conversation.next(last))
    conversation.close()
    return last
