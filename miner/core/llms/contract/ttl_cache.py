"""What a server has said of itself, for as long as that can be relied on."""

from __future__ import annotations

import time
from typing import Generic, TypeVar

__all__ = ["FRESH_SECONDS", "TTLCache"]

FRESH_SECONDS = 60.0
"""How long a server's word counts where nothing shows that it was restarted."""

K = TypeVar("K")
V = TypeVar("V")


class TTLCache(Generic[K, V]):
    """A mapping whose entries are gone after a while; it is cleared when the server may have been restarted."""

    def __init__(self, seconds: float = FRESH_SECONDS) -> None:
        self._seconds = seconds
        self._entries: dict[K, tuple[float, V]] = {}

    def __setitem__(self, key: K, value: V) -> None:
        self._entries[key] = time.monotonic(), value

    def __contains__(self, key: K) -> bool:
        return self.get(key) is not None

    def get(self, key: K) -> V | None:
        """What is remembered; None if nothing is."""
        entry = self._entries.get(key)
        return entry[1] if entry is not None and time.monotonic() - entry[0] < self._seconds else None

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
