"""The queue in front of a llama.cpp server that somebody else runs."""

from __future__ import annotations

import asyncio

import pytest

from miner.core.llms.contract.queue_client import QueueClient
from miner.core.llms.llamacpp.limiter import SlotLimiter
from miner.errors import BackendOverloadedError


async def test_the_queue_grows_and_shrinks_with_the_server():
    limiter = SlotLimiter("x", 1, max_queue=2, timeout=30)
    let = asyncio.Event()
    through: list[int] = []

    async def one(number: int) -> None:
        async with limiter.slot(QueueClient()):
            through.append(number)
            await let.wait()

    tasks = [asyncio.create_task(one(number)) for number in range(3)]
    await asyncio.sleep(0)
    assert (through, limiter.busy, limiter.waiting) == ([0], 1, 2)
    with pytest.raises(BackendOverloadedError, match="2 requests wait"):
        await one(9)
    limiter.resize(2)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (through, limiter.busy, limiter.waiting) == ([0, 1], 2, 1)
    tasks[2].cancel()
    await asyncio.gather(tasks[2], return_exceptions=True)
    assert (limiter.busy, limiter.waiting) == (2, 0)
    limiter.resize(1)
    tasks.append(asyncio.create_task(one(3)))
    let.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (through, limiter.busy, limiter.waiting) == ([0, 1, 3], 0, 0)


async def test_a_wait_that_is_too_long_ends():
    limiter = SlotLimiter("x", 1, max_queue=2, timeout=0.05)
    async with limiter.slot(QueueClient()):
        with pytest.raises(BackendOverloadedError, match="no slot was free"):
            async with limiter.slot(QueueClient()):
                pass
    async with limiter.slot(QueueClient()):
        assert limiter.busy == 1
    assert (limiter.busy, limiter.waiting) == (0, 0)
