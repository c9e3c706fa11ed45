"""Turns: bounded work at once, and a fair order for who waits.

The next turn goes to whoever has the fewest requests running and, among those, has waited longest since its last turn.
So a client with a thousand requests in the queue delays another's first one by at most one turn.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass

__all__ = ["QueueFullError", "Turns"]


class QueueFullError(Exception):
    """There is no place to wait, or not any more."""


@dataclass(slots=True, eq=False)
class _Waiter:
    owner: str
    weight: int
    turn: asyncio.Future[bool]
    """True: it may go; False: it has lost its place."""


class Turns:
    """Gives out turns.

    Args:
        most: turns that are out at once.
        places: how many may wait.
    """

    def __init__(self, most: int, places: int) -> None:
        self.most = most
        self.places = places
        self.running = 0
        self.waiting = 0
        self._held: Counter[str] = Counter()
        self._queues: dict[str, deque[_Waiter]] = {}
        """Whoever waits; in the order of their last turns."""

    async def take(self, owner: str, weight: int, seconds: float) -> int:
        """Wait for a turn and return its weight, which `give_back` wants to know.

        Args:
            weight: how much work it is; no more than all turns together.
            seconds: to wait at most.

        Raises:
            QueueFullError: there is no place to wait.
            TimeoutError: it took too long.
        """
        weight = max(1, min(weight, self.most))
        if not self.waiting and self._fits(weight):
            self._grant(owner, weight)
            return weight
        self._make_place(owner)
        waiter = _Waiter(owner, weight, asyncio.get_running_loop().create_future())
        self._queues.setdefault(owner, deque()).append(waiter)
        self.waiting += 1
        granted = False
        try:
            async with asyncio.timeout(seconds):
                granted = await waiter.turn
            if not granted:
                raise QueueFullError
            return weight
        finally:
            if not granted:
                self._forget(waiter)

    def give_back(self, owner: str, weight: int) -> None:
        """The work is done."""
        self._held[owner] -= weight
        if self._held[owner] <= 0:
            del self._held[owner]
        self.running -= weight
        self.serve()

    def serve(self) -> None:
        """Give out the turns that are free."""
        while self._queues:
            owner = min(self._queues, key=lambda name: self._held[name])  # the first of equals: its last turn is oldest
            queue = self._queues[owner]
            if not self._fits(queue[0].weight):
                return
            waiter = queue[0]
            self._leave_queue(waiter)
            if waiter.turn.done():
                continue  # it has just given up waiting
            if queue:
                self._queues[owner] = self._queues.pop(owner)  # to the end: all others go before its next
            self._grant(owner, waiter.weight)
            waiter.turn.set_result(True)

    def _fits(self, weight: int) -> bool:
        return self.running + weight <= self.most

    def _grant(self, owner: str, weight: int) -> None:
        self._held[owner] += weight
        self.running += weight

    def _make_place(self, owner: str) -> None:
        """Where all places are taken, whoever has the most loses the last of them, unless that is who asks."""
        if self.waiting < self.places:
            return
        greedy = max(self._queues, key=lambda name: len(self._queues[name]), default=None)
        if greedy is None or len(self._queues[greedy]) <= len(self._queues.get(owner, ())) + 1:
            raise QueueFullError
        loser = self._queues[greedy][-1]
        self._leave_queue(loser)
        if not loser.turn.done():
            loser.turn.set_result(False)

    def _forget(self, waiter: _Waiter) -> None:
        """It does not wait any more, or cannot use the turn that it got."""
        if waiter.turn.done() and not waiter.turn.cancelled():
            if waiter.turn.result():
                self.give_back(waiter.owner, waiter.weight)
            return
        self._leave_queue(waiter)
        self.serve()  # it may have been a heavy one that stood in the way

    def _leave_queue(self, waiter: _Waiter) -> None:
        queue = self._queues.get(waiter.owner)
        if queue is None or waiter not in queue:
            return  # it has left already
        queue.remove(waiter)
        if not queue:
            del self._queues[waiter.owner]
        self.waiting -= 1
