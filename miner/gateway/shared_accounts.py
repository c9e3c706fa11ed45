"""Accounts that all workers share: what a client used at one of them counts at all of them."""

from __future__ import annotations

import hashlib
import struct
from contextlib import AbstractContextManager

from miner.core._typing import override
from miner.gateway.rates import Account, Bucket
from miner.gateway.shared import COUNTERS, PLACES, RECORD_BYTES, SharedCounters

__all__ = ["SharedAccounts"]

_RECORD = struct.Struct("<Q7d")
"""Mark of the client; when it was last seen; of requests and of tokens what is left, the limit, and when that was."""
_WAYS = 8
"""Places where a client's record may be. Of full ones whoever was idle longest is forgotten."""

assert _RECORD.size == RECORD_BYTES


class SharedAccounts:
    """One account for each client, in the memory of the workers."""

    def __init__(self, counters: SharedCounters) -> None:
        self.counters = counters
        self._salt = counters.salt

    def of(self, subject: str) -> Account:
        """The account of this client: what is in it is known, and may be changed, within a `with` block."""
        digest = hashlib.blake2b(subject.encode("utf-8", "surrogateescape"), digest_size=8, key=self._salt).digest()
        return _SharedAccount(self.counters, int.from_bytes(digest, "little") or 1)


class _SharedAccount(Account):
    """Read from the memory when it is entered, written when it is left. Enter it again with the same clock."""

    __slots__ = ("_counters", "_lock", "_mark", "_place", "_ran")

    def __init__(self, counters: SharedCounters, mark: int) -> None:
        super().__init__()
        self._counters = counters
        self._mark = mark
        self._place: int | None = None
        """None: not found yet, or all places belong to clients with running requests; then it counts for itself."""
        self._ran = 0
        self._lock: AbstractContextManager[None] | None = None

    @override
    def __enter__(self) -> Account:
        first = self._mark % (PLACES // _WAYS) * _WAYS
        self._lock = self._counters.locked(self._counters.record_at(first))
        self._lock.__enter__()
        found = self._find(first)
        if found is not None:
            self._place = found
            self._load(found)
        return self

    @override
    def __exit__(self, *_: object) -> None:
        if self._place is not None:
            self._store(self._place)
        if self._lock is not None:
            lock, self._lock = self._lock, None
            lock.__exit__(None, None, None)

    def _find(self, first: int) -> int | None:
        """The client's place, or one for it."""
        counters, free, oldest = self._counters, None, 0.0
        if self._place is not None:  # it runs, so nobody took its place
            return self._place
        for place in range(first, first + _WAYS):
            mark, seen = struct.unpack_from("<Qd", counters.cells, counters.record_at(place))
            if mark == self._mark:
                return place
            if (free is None or seen < oldest) and not counters.total(COUNTERS + place):
                free, oldest = place, seen
        if free is not None:
            _RECORD.pack_into(counters.cells, counters.record_at(free), self._mark, *[0.0] * 7)
        return free

    def _load(self, place: int) -> None:
        counters = self._counters
        _, _, *numbers = _RECORD.unpack_from(counters.cells, counters.record_at(place))
        self.running = self._ran = counters.total(COUNTERS + place)
        self.requests, self.tokens = Bucket.restored(*numbers[:3]), Bucket.restored(*numbers[3:])

    def _store(self, place: int) -> None:
        counters, nothing = self._counters, (0.0, 0.0, 0.0)
        requests = self.requests.state if self.requests is not None else nothing
        tokens = self.tokens.state if self.tokens is not None else nothing
        seen = max(requests[2], tokens[2])
        _RECORD.pack_into(counters.cells, counters.record_at(place), self._mark, seen, *requests, *tokens)
        if self.running != self._ran:
            counters.add(COUNTERS + place, self.running - self._ran)
            self._ran = self.running
