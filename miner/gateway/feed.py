"""EventFeed: what happens here, as numbered events for those who watch: the console, `miner ps --watch`, a fleet."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec

from miner.core.engine.events import EngineEvent

_KEPT = 1000
"""Events that are kept for watchers that come back (`Last-Event-ID`)."""
_WAITING = 1000
"""Events that may wait for a slow watcher; it loses the oldest, and is told so."""


class Event(NamedTuple):
    """One event as it is sent."""

    number: int
    kind: str
    data: bytes
    """JSON."""


class EventFeed:
    """Numbered events, the last of which are kept. For one event loop."""

    def __init__(self) -> None:
        self._next = 1
        self._kept: deque[Event] = deque(maxlen=_KEPT)
        self._watchers: set[Watcher] = set()

    @property
    def watched(self) -> bool:
        """Whether anybody watches: what costs something to find out is sent only then."""
        return bool(self._watchers)

    @property
    def last(self) -> int:
        """The number of the last event."""
        return self._next - 1

    def publish(self, kind: str, /, **fields: Any) -> None:
        """Send an event: its fields besides `at`, the time in seconds since 1970. Those that are None are left out."""
        content = {name: value for name, value in fields.items() if value is not None}
        content.setdefault("at", round(time.time(), 3))
        event = Event(self._next, kind, msgspec.json.encode(content))
        self._next += 1
        self._kept.append(event)
        for watcher in self._watchers:
            watcher.push(event)

    def engine_event(self, event: EngineEvent) -> None:
        """Send what happened to an engine."""
        self.publish(
            "engine", model=event.model, state=event.state, reason=event.reason, memory=event.memory,
            seconds=None if event.seconds is None else round(event.seconds, 3), at=round(event.at, 3),
        )  # fmt: skip

    @contextmanager
    def watch(self, after: int | None = None) -> Iterator[Watcher]:
        """Receive events for the length of the block.

        Args:
            after: the number of the last event that was seen: the later ones come first, as far as they are kept.
        """
        missed = [event for event in self._kept if event.number > after] if after is not None else []
        watcher = Watcher(missed)
        if after is not None and after < self.last and (not missed or missed[0].number > after + 1):
            watcher.lost = (missed[0].number if missed else self._next) - after - 1
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)


class Watcher:
    """The events that one client has not received yet."""

    def __init__(self, waiting: list[Event]) -> None:
        self._waiting = deque(waiting)
        self._arrived = asyncio.Event()
        self.lost = 0
        """Events that it did not get, since the last call of `next`."""
        if waiting:
            self._arrived.set()

    def push(self, event: Event) -> None:
        """Add an event."""
        if len(self._waiting) >= _WAITING:
            self._waiting.popleft()
            self.lost += 1
        self._waiting.append(event)
        self._arrived.set()

    async def next(self) -> list[Event]:
        """Wait for events; return all that are there."""
        await self._arrived.wait()
        self._arrived.clear()
        events, self._waiting = list(self._waiting), deque()
        return events
