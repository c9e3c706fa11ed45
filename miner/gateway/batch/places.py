"""Places: how many rows of batches each backend computes at once, where a service has several backends."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from miner.core.fair_queue import Permits
from miner.gateway.state import Gateway

MAX_CONCURRENCY = 32


class NoPlaceError(Exception):
    """There was no place for a row before its batch expired."""


class _Named(msgspec.Struct):
    model: Any = None


def rows_at_once(slots: int | None) -> int:
    """How many rows run on so many slots: one is left to interactive requests, where there is more than one.

    Args:
        slots: None: unknown.
    """
    return max(1, min((slots or MAX_CONCURRENCY) - 1, MAX_CONCURRENCY))


class Places:
    """The places of all backends. Rows that wait for one are fair between owners."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._backends: dict[int, Permits] = {}
        """By the identity of the backend, while rows are there."""

    @asynccontextmanager
    async def take(self, body: bytes, owner: str, expires: float, waits: Callable[[bool], None]) -> AsyncIterator[None]:
        """Hold a place of the backend that serves a row.

        Args:
            body: of the row.
            expires: in seconds since 1970.
            waits: called with True and then with False where the row has to wait.

        Raises:
            NoPlaceError: there was none before the batch expired.
        """
        service, model = self._gateway.service, _model_of(body)
        backend = service.backend_of(model)  # held here, so that no other one has its identity
        limit = rows_at_once(service.concurrency_of(model))
        permits = self._backends.setdefault(id(backend), Permits(limit, sys.maxsize))
        if limit != permits.limit:
            permits.resize(limit)
        waits_now = permits.held >= limit or bool(permits.waiting)
        try:
            if waits_now:
                waits(True)
            try:
                await permits.acquire(owner, expires - time.time())
            except TimeoutError:
                raise NoPlaceError from None
            finally:
                if waits_now:
                    waits(False)
            try:
                yield
            finally:
                permits.release(owner)
        finally:
            if not permits.held and not permits.waiting and self._backends.get(id(backend)) is permits:
                del self._backends[id(backend)]


def _model_of(body: bytes) -> str | None:
    try:
        name = msgspec.json.decode(body, type=_Named).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # its response says what is wrong
    return name if isinstance(name, str) and name else None
