"""The order between clients, and permits granted in it."""

from __future__ import annotations

import asyncio
import random
from collections import deque

import pytest

from miner.core.fair_queue import BatchClient, FairQueue, Permits, QueueFullError, waiter_to_drop

LONG = 60.0


async def until(condition):
    async with asyncio.timeout(LONG):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


def drained(queue):
    """All waiters in the order of their grants."""
    order = []
    while (waiter := queue.next()) is not None:
        queue.grant(waiter)
        order.append(waiter)
    return order


def test_one_client_is_served_in_order_of_arrival():
    queue = FairQueue[int]()
    for number in range(5):
        queue.push("", number)
    queue.discard(2)
    queue.discard(9)
    assert list(queue) == [0, 1, 3, 4]
    assert drained(queue) == [0, 1, 3, 4]
    assert (len(queue), queue.next()) == (0, None)


@pytest.mark.parametrize("seed", range(20))
def test_the_reported_order_is_the_order_of_grants(seed):
    chance, queue, held = random.Random(seed), FairQueue[int](), deque()
    clients = [chance.choice("abcd") for _ in range(30)]

    def grant():
        waiter = queue.next()
        queue.grant(waiter)
        held.append(clients[waiter])
        return waiter

    for number, client in enumerate(clients):
        queue.push(client, number)
        if chance.random() < 0.3:
            grant()
    told = list(queue.in_order(3, held))
    assert sorted(told) == sorted(queue)
    order = [grant() for _ in range(3)]
    while len(queue):
        queue.release(held.popleft())
        order.append(grant())
    assert told == order


def test_a_client_without_permits_goes_before_one_that_holds_some():
    queue = FairQueue[str]()
    queue.hold("a", 2)
    for client in "aab":
        queue.push(client, client + str(len(queue)))
    assert list(queue.in_order(3, [])) == ["b2", "a0", "a1"]
    queue.release_all()
    assert list(queue.in_order(3, [])) == ["a0", "b2", "a1"]


def test_who_makes_place_is_the_newest_of_the_client_with_the_most_in_all_queues():
    one, other = FairQueue[str](), FairQueue[str]()
    for queue, client, waiter in ((one, "a", "a1"), (other, "a", "a2"), (one, "a", "a3"), (one, "b", "b1")):
        queue.push(client, waiter)
    assert waiter_to_drop("c", [one, other]) == "a3"
    assert waiter_to_drop("b", [one, other]) == "a3"
    assert waiter_to_drop("a", [one, other]) is None
    assert waiter_to_drop("c", [other]) is None  # it would have as many then
    assert waiter_to_drop("c", []) is None


async def test_a_full_queue_drops_for_a_client_with_fewer():
    permits = Permits(1, 2)
    await permits.acquire("a", LONG)
    waiting = [asyncio.create_task(permits.acquire("a", LONG)) for _ in range(2)]
    await until(lambda: permits.waiting == 2)
    with pytest.raises(QueueFullError):
        await permits.acquire("a", LONG)
    modest = asyncio.create_task(permits.acquire("b", LONG))
    with pytest.raises(QueueFullError):
        await asyncio.wait_for(waiting[1], LONG)
    permits.release("a")
    assert await asyncio.wait_for(waiting[0], LONG) == 1
    permits.resize(2)
    assert await asyncio.wait_for(modest, LONG) == 1
    with pytest.raises(TimeoutError):
        await permits.acquire("c", 0.01)
    assert (permits.held, permits.waiting) == (2, 0)


async def test_permits_go_round_among_the_clients_that_wait():
    permits = Permits(1, 100)
    order = []
    await permits.acquire("x", LONG)

    async def work(owner):
        weight = await permits.acquire(owner, LONG)
        order.append(owner)
        await asyncio.sleep(0)
        permits.release(owner, weight)

    working = [asyncio.create_task(work(owner)) for owner in ["a"] * 6 + ["b"] * 3 + ["c"]]
    await until(lambda: permits.waiting == 10)
    permits.release("x")
    await asyncio.wait_for(asyncio.gather(*working), LONG)
    assert "".join(order) == "abcababaaa"
    assert (permits.held, permits.waiting) == (0, 0)


async def test_the_client_that_holds_fewest_goes_first():
    permits = Permits(4, 100)
    for _ in range(4):
        await permits.acquire("a", LONG)
    waiting = [asyncio.create_task(permits.acquire(owner, LONG)) for owner in ("a", "b", "b")]
    await until(lambda: permits.waiting == 3)
    permits.release("a")
    permits.release("a")
    await asyncio.wait_for(asyncio.gather(*waiting[1:]), LONG)  # a has two running: both of b's went first
    assert not waiting[0].done()
    permits.release("b")
    assert await asyncio.wait_for(waiting[0], LONG) == 1


async def test_a_permit_granted_in_the_step_of_a_cancellation_is_not_lost():
    permits = Permits(1, 10)
    await permits.acquire("a", LONG)
    given_up = asyncio.create_task(permits.acquire("b", LONG))
    await until(lambda: permits.waiting == 1)
    permits.release("a")  # b has the permit
    given_up.cancel()  # and does not know
    await asyncio.wait([given_up])
    assert (permits.held, permits.waiting) == (0, 0)
    await permits.acquire("a", LONG)
    given_up = asyncio.create_task(permits.acquire("b", LONG))
    await until(lambda: permits.waiting == 1)
    given_up.cancel()
    permits.release("a")  # in the same step: b is not to get it
    await asyncio.wait([given_up])
    assert (permits.held, permits.waiting) == (0, 0)


async def test_a_heavy_request_is_not_starved_by_light_ones():
    permits = Permits(4, 10)
    for _ in range(4):
        await permits.acquire("a", LONG)
    heavy = asyncio.create_task(permits.acquire("b", LONG, 100))
    light = asyncio.create_task(permits.acquire("a", LONG))
    await until(lambda: permits.waiting == 2)
    for _ in range(3):
        permits.release("a")
    await asyncio.sleep(0.05)
    assert not heavy.done()
    permits.release("a")
    assert await asyncio.wait_for(heavy, LONG) == 4
    permits.release("b", 4)
    assert await asyncio.wait_for(light, LONG) == 1


def test_batch_work_waits_behind_every_interactive_request_and_is_fair_among_itself():
    queue = FairQueue[str]()
    for client, waiter in (
        (BatchClient("a"), "a-batch"), ("b", "b1"), (BatchClient("b"), "b-batch"), ("b", "b2"), ("c", "c1"),
    ):  # fmt: skip
        queue.push(client, waiter)
    assert list(queue.in_order(1, [])) == ["b1", "c1", "b2", "a-batch", "b-batch"]
    order = []
    while (waiter := queue.next()) is not None:
        queue.grant(waiter)
        order.append(waiter)
    assert order == ["b1", "c1", "b2", "a-batch", "b-batch"]


def test_a_full_queue_drops_batch_work_for_an_interactive_request_and_never_the_other_way_round():
    queue = FairQueue[str]()
    queue.push("a", "a1")
    queue.push("a", "a2")
    assert waiter_to_drop(BatchClient("b"), [queue]) is None
    queue.push(BatchClient("a"), "a-batch")
    assert waiter_to_drop("c", [queue]) == "a-batch"
    assert waiter_to_drop("a", [queue]) == "a-batch"
    queue.push(BatchClient("a"), "a-batch-2")
    assert waiter_to_drop(BatchClient("b"), [queue]) == "a-batch-2"
