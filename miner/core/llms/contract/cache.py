"""What is expensive to make of a text, kept while it is in use."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["Cache"]

T = TypeVar("T")


class Cache:
    """The least recently used go when there are more, or more bytes of keys, than there is room for."""

    def __init__(self, count: int = 256, size: int = 4 * 2**20) -> None:
        self._count, self._room = count, size
        self._held: OrderedDict[Any, tuple[int, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[bytes, Any], make: Callable[[], T]) -> T:
        """What `make` makes for this key, made once while it is kept."""
        with self._lock:
            known = self._held.get(key)
            if known is not None:
                self._held.move_to_end(key)
                return known[1]  # type: ignore[no-any-return]
        made = make()
        with self._lock:
            if key not in self._held:
                self._held[key] = len(key[0]), made
                self._room -= len(key[0])
            while len(self._held) > self._count or (self._room < 0 and len(self._held) > 1):
                self._room += self._held.popitem(last=False)[1][0]
        return made
