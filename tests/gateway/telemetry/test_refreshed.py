"""A value that another server may be slow to tell."""

from __future__ import annotations

import asyncio

from miner.gateway.telemetry.refreshed import Refreshed


async def test_the_first_is_waited_for_and_later_ones_are_refreshed_behind():
    release, asked = asyncio.Event(), 0

    async def ask():
        nonlocal asked
        asked += 1
        if asked > 1:
            await release.wait()
        else:
            await asyncio.sleep(0.2)
        return asked

    value = Refreshed(ask, 0, max_age=0.0, wait=0.01, first_wait=30.0)
    assert await value.recent() == 1
    assert [await value.recent() for _ in range(3)] == [1, 1, 1]  # the second is on its way, once
    assert asked == 2
    release.set()
    async with asyncio.timeout(30):
        while await value.recent() == 1:  # noqa: ASYNC110  (it is what is asked)
            await asyncio.sleep(0.01)
    await value.close()


async def test_what_cannot_be_had_is_the_default_and_what_is_old_is_dropped():
    async def never():
        await asyncio.sleep(60)
        return 1

    value = Refreshed(never, 0, max_age=0.0, wait=0.01, first_wait=0.02)
    assert await value.recent() == 0
    await value.close()

    fast = True

    async def once():
        if not fast:
            await asyncio.sleep(60)
        return 5

    old = Refreshed(once, 0, max_age=0.0, drop_after=0.5, wait=0.01, first_wait=30.0)
    assert await old.recent() == 5
    fast = False
    await asyncio.sleep(0.6)
    assert await old.recent() == 0
    await old.close()


async def test_a_young_value_is_not_asked_for_again():
    asked = 0

    async def ask():
        nonlocal asked
        asked += 1
        return asked

    value = Refreshed(ask, 0, max_age=60.0)
    assert [await value.recent() for _ in range(3)] == [1, 1, 1]
