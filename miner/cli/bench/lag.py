"""How late this process's event loop is: what it measures is late by as much."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter

_EVERY = 0.02
"""Seconds between two looks."""


@asynccontextmanager
async def loop_lag() -> AsyncIterator[list[float]]:
    """Measure during the block: the list gets how many seconds each look came late."""
    late: list[float] = []
    task = asyncio.create_task(_look(late))
    try:
        yield late
    finally:
        task.cancel()


async def _look(late: list[float]) -> None:
    while True:
        due = perf_counter() + _EVERY
        await asyncio.sleep(_EVERY)
        late.append(max(0.0, perf_counter() - due))
