"""A value from one thread for tasks on any loop."""

import asyncio
import threading

import pytest

from miner.core.engine.shared_future import SharedFuture


async def test_a_value_from_another_thread_wakes_all():
    shot = SharedFuture()
    waiters = [asyncio.create_task(shot.wait()) for _ in range(10)]
    await asyncio.sleep(0)
    threading.Thread(target=shot.set, args=("yes",)).start()
    assert await asyncio.gather(*waiters) == ["yes"] * 10
    shot.set("no")
    assert await shot.wait() == "yes"
    assert shot.wait_blocking(0) == "yes"


def test_a_waiter_on_a_closed_loop_is_no_harm():
    shot = SharedFuture()
    loop = asyncio.new_event_loop()
    task = loop.create_task(shot.wait())
    loop.run_until_complete(asyncio.sleep(0))
    waiters = set(shot._waiters)
    assert len(waiters) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    shot._waiters |= waiters  # as if the loop had been closed in the middle of it
    loop.close()
    shot.set("value")
    assert shot.value == "value"
