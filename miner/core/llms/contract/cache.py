"""Caches for expensive computations, and for what servers reported."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

TTL_SECONDS = 60.0
"""How long a server's report is valid, unless the server seems to have been restarted."""

K = TypeVar("K")
T = TypeVar("T")
V = TypeVar("V")


class LRUCache:
    """Values by key, the least recently used dropped beyond a number of entries or of bytes of keys. Thread-safe."""

    def __init__(self, count: int = 256, size: int = 4 * 2**20) -> None:
        self._count, self._room = count, size
        self._entries: OrderedDict[Any, tuple[int, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[bytes, Any], compute: Callable[[], T]) -> T:
        """Return the value of this key, computed if it is not cached."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
                return entry[1]  # type: ignore[no-any-return]
        value = compute()
        with self._lock:
            if key not in self._entries:
                self._entries[key] = len(key[0]), value
                self._room -= len(key[0])
            while len(self._entries) > self._count or (self._room < 0 and len(self._entries) > 1):
                self._room += self._entries.popitem(last=False)[1][0]
        return value


class TTLCache(Generic[K, V]):
    """A mapping whose entries expire; it is cleared when the server may have been restarted."""

    def __init__(self, seconds: float = TTL_SECONDS) -> None:
        self._seconds = seconds
        self._entries: dict[K, tuple[float, V]] = {}

    def __setitem__(self, key: K, value: V) -> None:
        self._entries[key] = time.monotonic(), value

    def __contains__(self, key: K) -> bool:
        return self.get(key) is not None

    def get(self, key: K) -> V | None:
        """Return the value; None if there is none or it has expired."""
        entry = self._entries.get(key)
        return entry[1] if entry is not None and time.monotonic() - entry[0] < self._seconds else None

    def clear(self) -> None:
        """Drop all entries."""
        self._entries.clear()
