"""The pool's rules one by one, on a virtual clock. Mixes of requests are in test_scheduler.py, real engines in
test_pool_real.py.
"""

import asyncio
import logging
import threading
import time
from dataclasses import replace

import pytest

from miner.core.engine.limits import PoolLimits
from miner.core.engine.pool import EnginePool
from miner.errors import (
    BackendOverloadedError,
    BackendTimeoutError,
    BackendUnavailableError,
    ConfigError,
    EngineStartError,
    EngineStoppedError,
)
from tests.core.engine.simulated import Machine, VirtualLoop, request, simulate, spec_of, start, use


def now():
    return asyncio.get_running_loop().time()


def status_of(pool, alias):
    return next(status for status in pool.status() if status.model == alias)


# Slots and queue.


def test_a_cold_model_is_loaded_once_and_its_slots_are_never_overrun():
    async def main():
        machine = Machine(load=2.0)
        pool = machine.pool()
        leases = await asyncio.gather(*(request(pool, spec_of("a", parallel=4)) for _ in range(20)))
        assert machine.loads == 1
        assert now() == pytest.approx(2.0 + 20 / 4)
        assert [lease.load_seconds for lease in leases] == pytest.approx([2.0] * 20)
        assert [lease.queue_seconds for lease in leases] == pytest.approx([i // 4 for i in range(20)])
        assert leases[0].address.base_url == "http://a"
        await pool.aclose()

    simulate(main())


def test_requests_of_a_model_are_served_in_order():
    async def main():
        machine = Machine()
        pool = machine.pool()
        order = []

        async def one(number):
            async with use(pool, spec_of("a", parallel=2)):
                order.append(number)
                await asyncio.sleep(1 + number % 3)

        await asyncio.gather(*(one(number) for number in range(12)))
        assert order == list(range(12))
        await pool.aclose()

    simulate(main())


def test_a_waiter_that_is_cancelled_leaves_at_once_and_without_a_trace():
    async def main():
        machine = Machine()
        pool = machine.pool(max_queue=2)
        a = spec_of("a")
        running, first, second = (start(request(pool, a, 5.0)) for _ in range(3))
        await asyncio.sleep(1.5)
        before = now()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert now() == before
        assert status_of(pool, "a").queued == 1
        third = start(request(pool, a, 1.0))  # its place is free again
        assert (await second).queue_seconds == pytest.approx(5.0)
        await running
        await third
        assert status_of(pool, "a").slots_busy == 0
        await pool.aclose()

    simulate(main())


def test_a_waiter_that_is_cancelled_while_its_slot_is_on_the_way_gives_it_on():
    async def main():
        machine = Machine()
        pool = machine.pool()
        a = spec_of("a")
        gate = asyncio.Event()

        async def holder():
            async with use(pool, a):
                await gate.wait()

        tasks = [start(holder()), start(request(pool, a)), start(request(pool, a))]
        await asyncio.sleep(2)
        gate.set()
        await asyncio.sleep(0)  # the holder leaves, and its slot is granted
        assert status_of(pool, "a").queued == 1
        tasks[1].cancel()  # granted, and not told yet
        await asyncio.wait(tasks)
        assert tasks[1].cancelled()
        assert tasks[2].result().queue_seconds < 2
        assert status_of(pool, "a").slots_busy == 0
        await pool.aclose()

    simulate(main())


def test_an_engine_whose_requesters_left_while_it_loaded_is_kept():
    async def main():
        machine = Machine(load=3.0)
        pool = machine.pool(idle_timeout=60)
        tasks = [start(request(pool, spec_of("a"))) for _ in range(3)]
        await asyncio.sleep(1)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await asyncio.sleep(10)
        assert (await request(pool, spec_of("a"))).load_seconds == 0
        assert machine.loads == 1
        await asyncio.sleep(61)
        assert machine.running == []
        await pool.aclose()

    simulate(main())


def test_too_many_waiters_are_refused_at_once_with_a_time_to_come_back():
    async def main():
        machine = Machine()
        pool = machine.pool(max_queue=3)
        a = spec_of("a", parallel=2)
        await asyncio.gather(request(pool, a, 8.0), request(pool, a, 8.0))
        tasks = [start(request(pool, a, 8.0)) for _ in range(5)]
        await asyncio.sleep(0.5)
        before = now()
        with pytest.raises(BackendOverloadedError, match=r"3 requests wait already.*MINER_MAX_QUEUE") as caught:
            await request(pool, a)
        assert now() == before
        assert caught.value.retry_after == pytest.approx(16.0)  # 4 of them, two at a time, 8 s each
        await asyncio.gather(*tasks)
        await pool.aclose()

    simulate(main())


def test_without_a_queue_slots_are_granted_even_on_a_cold_model():
    async def main():
        pool = Machine().pool(max_queue=0)
        a = spec_of("a", parallel=2)
        results = await asyncio.gather(*(request(pool, a) for _ in range(3)), return_exceptions=True)
        assert [type(result).__name__ for result in results] == ["Lease", "Lease", "BackendOverloadedError"]
        assert results[2].retry_after >= 1.0
        await pool.aclose()

    simulate(main())


def test_a_wait_that_is_too_long_ends_in_an_error():
    async def main():
        pool = Machine(load=1.0).pool(queue_timeout=5.0)
        a = spec_of("a")
        running = start(request(pool, a, 60.0))
        await asyncio.sleep(2)
        before = now()
        with pytest.raises(BackendOverloadedError, match=r"within 5 s.*MINER_QUEUE_TIMEOUT") as caught:
            await request(pool, a)
        assert now() - before == pytest.approx(5.0)
        assert caught.value.retry_after >= 1.0
        await running
        assert status_of(pool, "a").queued == 0
        await pool.aclose()

    simulate(main())


# Who is evicted.


def test_the_least_recently_used_goes_first():
    async def main():
        machine = Machine()
        pool = machine.pool(max_loaded=2)
        a, b, c = (spec_of(name) for name in "abc")
        await request(pool, a)
        await request(pool, b)
        await request(pool, a)
        await request(pool, c)
        assert sorted(machine.running) == ["a", "c"]
        await pool.aclose()

    simulate(main())


def test_no_more_is_evicted_than_is_needed():
    async def main():
        machine = Machine()
        pool = machine.pool(memory_budget=10)
        small, big, other = spec_of("small", size=2), spec_of("big", size=8), spec_of("other", size=8)
        await request(pool, small)
        await request(pool, big)
        await request(pool, other)
        assert sorted(machine.running) == ["other", "small"]
        await pool.aclose()

    simulate(main())


@pytest.mark.parametrize(
    ("needs", "running"),
    [
        # What lies on cards takes none of the machine's memory: nothing is evicted for it.
        ({"a": (2, (40, 0)), "b": (2, (40, 0))}, ["a", "b"]),
        ({"a": (2, (40, 40)), "b": (2, (50, 0))}, ["b"]),
        ({"a": (2, (80, 0)), "b": (2, (0, 80))}, ["a", "b"]),
        ({"a": (2, (1, 1)), "b": (9, ())}, ["b"]),
        ({"a": (2, (70, 0)), "b": (8, ()), "c": (0, (20, 70))}, ["b", "c"]),
    ],
)
def test_cards_and_memory_are_booked_apart(needs, running):
    async def main():
        machine = Machine()
        machine.limits = PoolLimits(memory_budget=10, gpu_budget=(80, 80))
        pool = EnginePool(
            machine.make,
            limits=machine.limits,
            memory_of=lambda spec: needs[spec.alias][0],
            gpu_memory_of=lambda spec: needs[spec.alias][1],
        )
        for name in needs:
            await request(pool, spec_of(name, size=1))
        assert sorted(machine.running) == running
        await pool.aclose()

    simulate(main())


def test_more_than_a_card_has_is_refused_with_the_numbers():
    async def main():
        machine = Machine()
        limits = PoolLimits(memory_budget=10, gpu_budget=(80, 80))
        pool = EnginePool(
            machine.make, limits=limits, memory_of=lambda _: 1, gpu_memory_of=lambda _: (81, 0)
        )  # fmt: skip
        with pytest.raises(EngineStartError, match=r"81 \+ 0 bytes on the GPUs.*80 \+ 80 bytes on the GPUs"):
            await request(pool, spec_of("a", size=1))
        await pool.aclose()

    simulate(main())


def test_a_retired_engine_serves_those_who_came_before_and_goes():
    async def main():
        machine = Machine()
        pool = machine.pool(max_loaded=2)
        old, new = spec_of("a", size=1), spec_of("a", size=2)
        pool.pin("a")
        running = start(request(pool, old, 20.0))
        await asyncio.sleep(5)
        waiting = start(request(pool, old, 20.0))
        await asyncio.sleep(1)
        pool.retire(old)
        assert (await request(pool, new)).address is not None
        assert not running.done()
        await running
        await waiting
        await asyncio.sleep(5)
        assert [engine.spec for engine in machine.engines if engine.state != "stopped"] == [new]
        assert [status.model for status in pool.status()] == ["a"]
        await pool.aclose()

    simulate(main())


def test_a_retired_engine_makes_room_without_waiting_for_its_turn():
    async def main():
        machine = Machine()
        pool = machine.pool(max_loaded=1, fairness_wait=1000.0)
        running = start(request(pool, spec_of("a", size=1), 20.0))
        await asyncio.sleep(5)
        pool.retire(spec_of("a", size=1))
        before = now()
        await request(pool, spec_of("a", size=2))
        assert now() - before < 60
        await running
        await pool.aclose()

    simulate(main())


def test_a_busy_engine_is_not_evicted_before_its_requests_are_done():
    async def main():
        machine = Machine()
        pool = machine.pool(max_loaded=1, fairness_wait=2.0)
        long = start(request(pool, spec_of("a"), 50.0))
        await asyncio.sleep(5)
        lease = await request(pool, spec_of("b"))
        assert lease.queue_seconds == pytest.approx(50.0 - 4 + 0.1)
        assert long.done()
        assert (await long).address.base_url == "http://a"
        await pool.aclose()

    simulate(main())


def test_a_loading_engine_is_not_evicted():
    async def main():
        machine = Machine(load=20.0)
        pool = machine.pool(max_loaded=1, fairness_wait=1.0)
        first = start(request(pool, spec_of("a")))
        await asyncio.sleep(1)
        await request(pool, spec_of("b"))
        assert first.done()
        assert machine.events[:3] == [("load", "a"), ("stop", "a"), ("load", "b")]
        await pool.aclose()

    simulate(main())


def test_idle_time_counts_from_the_end_of_the_last_request():
    async def main():
        machine = Machine()
        pool = machine.pool(idle_timeout=10)
        await request(pool, spec_of("a"), 30.0)
        await asyncio.sleep(9.5)
        assert machine.running == ["a"]
        await request(pool, spec_of("a"), 1.0)
        await asyncio.sleep(9.5)
        assert machine.running == ["a"]
        await asyncio.sleep(1)
        assert machine.running == []
        assert machine.loads == 1
        await pool.aclose()

    simulate(main())


@pytest.mark.parametrize(
    ("keep_alive", "after", "running"), [(0, 0.2, []), (5, 4.9, ["a"]), (5, 5.2, []), (-1, 1e5, ["a"])]
)
def test_keep_alive_of_a_request_overrides_the_idle_time(keep_alive, after, running):
    async def main():
        machine = Machine()
        pool = machine.pool(idle_timeout=20)
        await request(pool, spec_of("a"), keep_alive=keep_alive)
        await asyncio.sleep(after)
        assert machine.running == running
        await pool.aclose()

    simulate(main())


def test_keep_alive_of_zero_does_not_send_away_an_engine_that_others_use():
    async def main():
        machine = Machine()
        pool = machine.pool()
        a = spec_of("a", parallel=2)
        await asyncio.gather(request(pool, a, 1.0, keep_alive=0), *(request(pool, a, 3.0) for _ in range(3)))
        assert machine.loads == 1
        assert machine.running == ["a"]
        await pool.aclose()

    simulate(main())


def test_a_pinned_engine_stays():
    async def main():
        machine = Machine()
        pool = machine.pool(max_loaded=2, idle_timeout=5, fairness_wait=1)
        pool.pin("a")
        await request(pool, spec_of("a"))
        await request(pool, spec_of("b"))
        await request(pool, spec_of("c"))
        await request(pool, spec_of("b"))
        await asyncio.sleep(100)
        assert machine.running == ["a"]
        assert machine.events.count(("load", "a")) == 1
        pool.unpin("a")
        await asyncio.sleep(1)
        assert machine.running == []
        await pool.aclose()

    simulate(main())


def test_what_never_fits_is_refused_with_the_numbers():
    async def main():
        machine = Machine()
        pool = machine.pool(memory_budget=1000)
        with pytest.raises(EngineStartError, match=r"'big' needs about 2000 bytes.* 1000 bytes") as caught:
            await request(pool, spec_of("big", size=2000))
        assert not caught.value.retryable
        assert machine.loads == 0
        await pool.aclose()

    simulate(main())


def test_what_does_not_fit_beside_pins_is_refused_with_the_numbers():
    async def main():
        machine = Machine()
        pool = machine.pool(memory_budget=1000)
        pool.pin(spec_of("a", size=600))
        await request(pool, spec_of("a", size=600))
        with pytest.raises(BackendOverloadedError, match=r"pinned 'a': it needs about 500 bytes, they hold 600"):
            await request(pool, spec_of("b", size=500))
        await request(pool, spec_of("b", size=400))
        await pool.aclose()

    simulate(main())


def test_a_small_model_need_not_wait_behind_a_large_one_that_waits_for_room():
    async def main():
        machine = Machine()
        pool = machine.pool(memory_budget=10, fairness_wait=1.0)
        long = start(request(pool, spec_of("a", size=8), 100.0))
        await asyncio.sleep(5)
        large = start(request(pool, spec_of("large", size=8)))
        await asyncio.sleep(5)
        assert (await request(pool, spec_of("small", size=2))).queue_seconds < 1
        assert not long.done()
        assert not large.done()
        await large
        await pool.aclose()

    simulate(main())


def test_small_models_cannot_keep_a_large_one_out():
    async def main():
        machine = Machine()
        pool = machine.pool(memory_budget=10, fairness_wait=5.0)
        names = [f"small{i}" for i in range(6)]

        async def stream(name):
            while now() < 300:
                await request(pool, spec_of(name, size=3), 4.0)

        streams = [start(stream(name)) for name in names]
        await asyncio.sleep(20)
        lease = await request(pool, spec_of("large", size=10))
        assert lease.queue_seconds < 6 * (5 + 4 + 0.1 + 1)
        await asyncio.gather(*streams)
        await pool.aclose()

    simulate(main())


# Turns.


def test_the_loaded_model_goes_on_for_a_bounded_time_while_another_waits():
    async def main():
        machine = Machine(load=3.0)
        pool = machine.pool(max_loaded=1, fairness_wait=10.0)
        a = spec_of("a", parallel=2)
        served_meanwhile = 0
        waiting = False

        async def client():
            nonlocal served_meanwhile
            while now() < 100:
                await request(pool, a, 2.0)
                served_meanwhile += waiting

        clients = [start(client()) for _ in range(5)]
        await asyncio.sleep(20.5)
        waiting = True
        lease = await request(pool, spec_of("b"))
        waiting = False
        assert 10.0 <= lease.queue_seconds <= 10.0 + 2.0 + 0.2
        assert lease.load_seconds == pytest.approx(3.0)
        assert served_meanwhile >= 10
        await asyncio.gather(*clients)
        await pool.aclose()

    simulate(main())


def test_what_came_first_is_finished_first_if_that_is_cheaper_than_a_swap():
    async def main():
        machine = Machine(load=4.0)
        pool = machine.pool(max_loaded=1, fairness_wait=5.0)
        tasks = [start(request(pool, spec_of("a"), 1.0)) for _ in range(20)]
        tasks += [start(request(pool, spec_of("b"), 1.0)) for _ in range(20)]
        await asyncio.gather(*tasks)
        assert machine.loads == 2
        await pool.aclose()

    simulate(main())


def test_one_request_does_not_wait_behind_hundreds_for_another_model():
    async def main():
        machine = Machine(load=4.0)
        pool = machine.pool(max_loaded=1, fairness_wait=10.0)
        tasks = [start(request(pool, spec_of("a"), 1.0)) for _ in range(200)]
        await asyncio.sleep(20)
        assert (await request(pool, spec_of("b"))).queue_seconds <= 10 + 1 + 0.1
        await asyncio.gather(*tasks)
        assert machine.loads == 3
        await pool.aclose()

    simulate(main())


def test_one_client_for_each_model_does_not_swap_at_each_request():
    async def main():
        machine = Machine(load=4.0)
        pool = machine.pool(max_loaded=1, fairness_wait=10.0)
        served = 0

        async def client(name):
            nonlocal served
            while now() < 600:
                await request(pool, spec_of(name), 0.5)
                served += 1
                await asyncio.sleep(0.05)  # reads the answer, and asks again

        await asyncio.gather(client("a"), client("b"))
        assert machine.loads <= 600 / (10 + 4) + 3
        assert served >= 500
        await pool.aclose()

    simulate(main())


def test_an_idle_engine_is_kept_only_briefly():
    async def main():
        machine = Machine(load=4.0)
        pool = machine.pool(max_loaded=1, fairness_wait=100.0, idle_grace=1.0)
        await request(pool, spec_of("a"))
        assert (await request(pool, spec_of("b"))).queue_seconds == pytest.approx(1.0 + 0.1)
        await asyncio.sleep(5)
        assert (await request(pool, spec_of("a"))).queue_seconds == pytest.approx(0.1)
        await pool.aclose()

    simulate(main())


def test_200_mixed_requests_over_three_models_load_each_once():
    async def main():
        machine = Machine(load=5.0, stop=0.5)
        pool = machine.pool(max_loaded=1, fairness_wait=60.0)
        specs = [spec_of(name, parallel=4) for name in "abc"]
        leases = await asyncio.gather(*(request(pool, specs[i % 3], 1.0 + i % 5) for i in range(200)))
        assert machine.loads == 3
        assert len(leases) == 200
        await pool.aclose()

    simulate(main())


def test_eviction_is_round_robin_when_all_have_a_long_queue():
    async def main():
        machine = Machine(load=1.0)
        pool = machine.pool(max_loaded=1, fairness_wait=5.0)
        tasks = [start(request(pool, spec_of(name), 1.0)) for name in "aab" * 20]
        await asyncio.sleep(1)
        late = await request(pool, spec_of("c"))
        assert late.queue_seconds <= 2 * (5 + 1 + 1 + 0.1) + 0.5
        await asyncio.gather(*tasks)
        loads = [name for what, name in machine.events if what == "load"]
        assert loads[:5] == ["a", "b", "c", "a", "b"]
        await pool.aclose()

    simulate(main())


# Crashes, failures, ends.


def test_after_a_crash_the_queue_goes_on_with_the_restarted_engine():
    async def main():
        machine = Machine(load=1.0)
        pool = machine.pool()
        a = spec_of("a", parallel=2)
        seen = []

        async def one():
            async with use(pool, a) as lease:
                await asyncio.sleep(10)
                seen.append(lease.engine.crash_error())

        tasks = [start(one()) for _ in range(5)]
        await asyncio.sleep(3)
        machine.named("a").crash()
        await asyncio.sleep(1.5)
        assert status_of(pool, "a").slots_busy == 2  # of the new life; the old one's two are still in their blocks
        assert status_of(pool, "a").queued == 1
        await asyncio.gather(*tasks)
        assert machine.loads == 2
        assert status_of(pool, "a").slots_busy == 0
        assert status_of(pool, "a").restarts == 1
        await pool.aclose()

    simulate(main())


def test_no_slot_of_a_crashed_engine_is_granted_before_the_pool_sees_the_crash():
    async def main():
        machine = Machine(load=1.0)
        pool = machine.pool()
        gone = asyncio.Event()

        async def victim():
            async with use(pool, spec_of("a")):
                await gone.wait()

        first, second = start(victim()), start(request(pool, spec_of("a")))
        await asyncio.sleep(2)
        machine.named("a").crash(noticed_after=3.0)
        gone.set()
        await first
        assert (await second).load_seconds == pytest.approx(1.0)  # else `use` finds an engine that is not ready
        assert machine.loads == 2
        await pool.aclose()

    simulate(main())


def test_a_crash_while_others_wait_wins_no_second_turn():
    async def main():
        machine = Machine(load=1.0)
        pool = machine.pool(max_loaded=1, fairness_wait=5.0)
        tasks = [start(request(pool, spec_of("a"), 8.0)) for _ in range(4)]
        await asyncio.sleep(2)
        other = start(request(pool, spec_of("b")))
        await asyncio.sleep(6)  # a's turn is over
        machine.named("a").crash()
        await other
        assert [name for what, name in machine.events if what == "load"][:2] == ["a", "b"]
        await asyncio.gather(*tasks)
        await pool.aclose()

    simulate(main())


def test_a_restart_after_a_crash_goes_on_with_the_same_turn():
    async def main():
        machine = Machine(load=1.0)
        pool = machine.pool(max_loaded=1, fairness_wait=10.0)
        tasks = [start(request(pool, spec_of("a"), 1.0)) for _ in range(40)]
        await asyncio.sleep(5)
        other = start(request(pool, spec_of("b")))
        await asyncio.sleep(7)
        machine.named("a").crash()
        assert (await other).queue_seconds <= 10 + 1 + 0.1
        assert [name for what, name in machine.events if what == "load"][:3] == ["a", "a", "b"]
        await asyncio.gather(*tasks)
        await pool.aclose()

    simulate(main())


def test_a_crashed_idle_engine_is_restarted_for_the_next_request():
    async def main():
        machine = Machine()
        pool = machine.pool()
        await request(pool, spec_of("a"))
        machine.named("a").crash()
        await asyncio.sleep(5)
        assert machine.loads == 1
        assert status_of(pool, "a").reason == "crashed"
        assert (await request(pool, spec_of("a"))).load_seconds == pytest.approx(1.0)
        assert status_of(pool, "a").reason is None
        await pool.aclose()

    simulate(main())


def test_a_failed_start_fails_its_waiters_only():
    async def main():
        machine = Machine()
        pool = machine.pool()
        machine.failures["a"] = EngineStartError("no such file", log_tail=["x"])
        results = await asyncio.gather(
            *(request(pool, spec_of("a")) for _ in range(3)), request(pool, spec_of("b")), return_exceptions=True
        )
        assert [str(result) for result in results[:3]] == ["no such file"] * 3
        assert len({id(result) for result in results}) == 4
        assert results[0].log_tail == ["x"]
        assert results[3].address.base_url == "http://b"
        assert status_of(pool, "a").reason == "no such file"
        pool.reset("a")
        assert machine.named("a").resets == 1
        assert status_of(pool, "a").reason is None
        await request(pool, spec_of("a"))
        await pool.aclose()

    simulate(main())


def test_an_engine_in_backoff_does_not_delay_others():
    """It is refused at once, those who wait for it too, and nothing makes room for it."""

    async def main():
        machine = Machine(load=1.0)
        pool = machine.pool(max_loaded=1)
        a, b = spec_of("a"), spec_of("b")
        await request(pool, a)
        busy = start(request(pool, b, 30.0))
        await asyncio.sleep(5)
        waiting = start(request(pool, a))
        await asyncio.sleep(1)
        engine = machine.named("a")
        engine.state = "failed"
        engine.refused = EngineStartError("failed 3 times", retry_after=30.0)
        before = now()
        with pytest.raises(EngineStartError, match="failed 3 times"):
            await request(pool, a)
        assert now() == before
        machine.events.clear()
        with pytest.raises(EngineStartError, match="failed 3 times"):
            await waiting
        await busy
        assert machine.events == [], "nothing was stopped for it"
        assert status_of(pool, "a").retry_after == 30.0
        assert status_of(pool, "a").reason == "failed 3 times"
        await pool.aclose()

    simulate(main())


def test_an_unexpected_exception_at_start_is_an_error_and_no_hang():
    async def main():
        machine = Machine()
        pool = machine.pool()
        machine.failures["a"] = OSError("out of pipes")
        with pytest.raises(EngineStartError, match="OSError: out of pipes") as caught:
            await request(pool, spec_of("a"))
        assert isinstance(caught.value.__cause__, OSError)
        assert machine.named("a").killed == 1
        await request(pool, spec_of("a"))
        await pool.aclose()

    simulate(main())


def test_a_start_without_end_is_bounded():
    async def main():
        machine = Machine(load=1e6)
        pool = machine.pool(start_timeout=50, queue_timeout=100)
        with pytest.raises(EngineStartError, match="not ready after 50 s"):
            await request(pool, spec_of("a"))
        assert machine.running == []
        await pool.aclose()

    simulate(main())


def test_a_stop_without_end_is_bounded_by_a_kill():
    async def main():
        machine = Machine(stop=1e6)
        pool = machine.pool(max_loaded=1, stop_timeout=7.0)
        await request(pool, spec_of("a"))
        lease = await request(pool, spec_of("b"))
        assert 7.0 <= lease.queue_seconds <= 8.0
        assert machine.named("a").killed
        before = now()
        await pool.aclose()
        assert now() - before == pytest.approx(7.0)
        assert machine.running == []

    simulate(main())


def test_unload_waits_for_those_who_came_before_and_later_ones_load_again():
    async def main():
        machine = Machine()
        pool = machine.pool()
        pool.pin("a")
        before = [start(request(pool, spec_of("a"), 10.0)) for _ in range(2)]
        await asyncio.sleep(2)
        unload = start(pool.unload("a"))
        await asyncio.sleep(1)
        later = start(request(pool, spec_of("a"), 10.0))
        assert await unload is True
        assert all(task.done() for task in before)
        assert now() == pytest.approx(1 + 2 * 10 + 0.1)
        assert (await later).load_seconds == pytest.approx(1.0)
        assert machine.loads == 2
        assert await pool.unload(spec_of("a")) is True
        assert await pool.unload("a") is False
        assert machine.running == []
        await pool.aclose()

    simulate(main())


@pytest.mark.parametrize("action", ["stop", "unload"])
@pytest.mark.parametrize("state", ["loading", "waits for memory", "ready", "evicted"])
def test_what_was_stopped_is_loaded_again_only_for_those_who_come_later(action, state):
    async def main():
        machine = Machine(load=10.0, stop=5.0)
        machine.closing = True  # `stop` may stop a busy engine
        pool = machine.pool(memory_budget=10)
        if state == "waits for memory":
            other = start(request(pool, spec_of("b", size=10), 100.0))
            await asyncio.sleep(1)
        running = start(request(pool, spec_of("a", size=10), 20.0))
        waiting = [start(request(pool, spec_of("a", size=10), client=name)) for name in "xy"]
        await asyncio.sleep(15 if state == "ready" else 1)
        if state == "evicted":
            pool.stop("a")
            await asyncio.gather(running, *waiting, return_exceptions=True)
            waiting = [start(request(pool, spec_of("a", size=10)))]
            await asyncio.sleep(1)
        loads = machine.loads
        began = now()
        done = pool.stop("a") if action == "stop" else await pool.unload("a")
        assert done is True
        if state == "ready" and action == "unload":
            assert [task.done() for task in (running, *waiting)] == [True, True, True]
        else:
            assert now() - began <= 5
            for error in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(error, EngineStoppedError)
                assert "stopped by an operator" in error.message
                assert error.retryable
        await asyncio.sleep(50)
        assert machine.loads == loads
        assert "a" not in machine.running
        if state == "waits for memory":
            other.cancel()
        await asyncio.wait([running])
        await request(pool, spec_of("a", size=10))
        assert machine.loads == loads + 1
        await pool.aclose()

    simulate(main())


def test_an_engine_that_is_evicted_or_crashes_before_it_is_unloaded_stays_unloaded():
    async def main():
        machine = Machine()
        pool = machine.pool()
        running, waiting = (start(request(pool, spec_of("a"), 10.0)) for _ in range(2))
        await asyncio.sleep(2)
        unload = start(pool.unload("a"))
        await asyncio.sleep(1)
        machine.named("a").crash()
        assert await unload is True
        with pytest.raises(EngineStoppedError):
            await waiting
        await asyncio.wait([running])
        await asyncio.sleep(10)
        assert (machine.loads, machine.running) == (1, [])
        await pool.aclose()

    simulate(main())


def test_a_replaced_engine_for_whose_load_nobody_waits_is_not_loaded_to_its_end():
    async def main():
        machine = Machine(load=100.0)
        pool = machine.pool()
        load = start(request(pool, spec_of("a")))
        await asyncio.sleep(1)
        pool.retire(spec_of("a"))
        await asyncio.sleep(1)
        assert machine.running == ["a"]
        load.cancel()
        await asyncio.wait([load])
        await asyncio.sleep(1)
        assert machine.running == []
        assert pool.status() == []
        await pool.aclose()

    simulate(main())


def test_unload_gives_up_on_a_request_without_end():
    async def main():
        machine = Machine()
        pool = machine.pool(queue_timeout=20.0)
        running = start(request(pool, spec_of("a"), 100.0))
        await asyncio.sleep(2)
        with pytest.raises(BackendTimeoutError, match="'a' still has requests in flight"):
            await pool.unload("a")
        running.cancel()
        await asyncio.wait([running])
        assert (await request(pool, spec_of("a"))).load_seconds == 0
        await pool.aclose()

    simulate(main())


def test_aclose_ends_everything_and_leaves_nothing():
    async def main():
        machine = Machine(load=5.0)
        pool = machine.pool(idle_timeout=100)
        tasks = [start(request(pool, spec_of(name), 100.0)) for name in "aab"]
        await asyncio.sleep(10)
        loading = start(request(pool, spec_of("c"), 100.0))
        await asyncio.sleep(1)
        machine.closing = True
        await asyncio.gather(pool.aclose(), pool.aclose())
        assert machine.running == []
        with pytest.raises(BackendUnavailableError):
            await tasks[1]
        with pytest.raises(BackendUnavailableError):
            await loading
        await pool.aclose()
        with pytest.raises(BackendUnavailableError, match="closed"):
            await request(pool, spec_of("a"))
        for task in (tasks[0], tasks[2]):
            task.cancel()
        await asyncio.wait(tasks)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert asyncio.get_running_loop()._scheduled == [] or all(
            handle.cancelled() for handle in asyncio.get_running_loop()._scheduled
        )

    simulate(main())


def test_a_pool_that_was_closed_before_its_use_needs_no_loop_of_its_own():
    async def main():
        pool = Machine().pool()
        await pool.aclose()
        assert pool.status() == []

    simulate(main())


def test_kill_all_ends_everything_at_once_and_the_pool_starts_anew():
    async def main():
        machine = Machine()
        pool = machine.pool()
        tasks = [start(request(pool, spec_of("a"), 10.0)) for _ in range(2)]
        await asyncio.sleep(2)
        before = now()
        pool.kill_all()
        assert machine.running == []
        with pytest.raises(BackendUnavailableError):
            await tasks[1]
        assert now() == before
        await request(pool, spec_of("a"))
        assert machine.loads == 2
        await tasks[0]
        await pool.aclose()

    simulate(main())


def test_a_simulation_ends_though_the_machine_has_no_time_for_threads(monkeypatch):
    real = threading.Thread.run
    monkeypatch.setattr(threading.Thread, "run", lambda thread: (time.sleep(0.1), real(thread)))

    async def main():
        return await asyncio.to_thread(lambda: "done")

    assert simulate(main()) == "done"


def test_another_event_loop_starts_anew_and_the_old_engines_are_killed():
    machine = Machine()
    pool = machine.pool()
    pool.pin("a")
    loop = VirtualLoop()
    loop.run_until_complete(request(pool, spec_of("a")))
    assert machine.running == ["a"]

    async def second():
        await request(pool, spec_of("a"))
        assert len(machine.engines) == 2
        assert machine.engines[0].killed
        assert machine.running == ["a"]
        await asyncio.sleep(1000)
        assert machine.running == ["a"]  # the pin holds
        await pool.aclose()

    simulate(second())
    machine.engines[0].state = "stopped"
    assert machine.running == []
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_a_loop_that_ends_without_a_close_takes_its_engines_along():
    machine = Machine()
    pool = machine.pool()
    simulate(request(pool, spec_of("a")))
    assert machine.running == []
    simulate(request(pool, spec_of("a")))
    assert machine.running == []
    assert machine.loads == 2


def test_two_loops_at_once_are_refused():
    machine = Machine(load=0.1)
    pool = machine.pool()

    async def outer():
        await request(pool, spec_of("a"))

        def inner():
            with pytest.raises(RuntimeError, match="another running event loop"):
                simulate(request(pool, spec_of("a")))

        await asyncio.to_thread(inner)
        assert machine.running == ["a"]
        await pool.aclose()

    asyncio.run(outer())  # on the real clock: a thread needs real time


def test_progress_of_queue_and_load_is_reported():
    async def main():
        machine = Machine(load=1.2)
        pool = machine.pool()
        a = spec_of("a", size=100)
        seen = []
        tasks = [start(request(pool, a, 1.0)) for _ in range(2)]
        tasks.append(start(request(pool, a, 1.0, on_progress=lambda p: seen.append((p.stage, p.done, p.total)))))
        await asyncio.gather(*tasks)
        assert seen == [
            ("load", 0, 100),
            ("queue", 0, 2),
            ("load", 50, 100),
            ("load", 50, 100),
            ("queue", 1, 2),
            ("queue", 2, 2),
        ]
        await pool.aclose()

    simulate(main())


def test_slots_and_reported_positions_are_fair_between_clients():
    async def main():
        pool, a, order = Machine().pool(), spec_of("a"), []
        seen = {"x": [], "y": []}

        async def one(client):
            def report(progress):
                if progress.stage == "queue":
                    seen[client].append((progress.done, progress.total))

            await request(pool, a, 1.0, client=client, on_progress=report)
            order.append(client)

        tasks = [start(request(pool, a, 1.0, client="x"))]
        await asyncio.sleep(1.5)  # loaded, and its slot taken
        for client in ("x", "x", "y"):
            tasks.append(start(one(client)))
            await asyncio.sleep(0.01)
        await asyncio.gather(*tasks)
        assert order == ["x", "y", "x"]
        # The second of x let y past it: what was before it became more, and none of it was done.
        assert sorted(seen["x"]) == sorted([(0, 0), (0, 1), (0, 2), (1, 2), (2, 2)])
        assert seen["y"] == [(0, 1), (1, 1)]
        await pool.aclose()

    simulate(main())


def test_a_full_pool_drops_for_a_client_with_fewer_whatever_the_model():
    async def main():
        pool = Machine().pool(max_queue=3)
        a, b = spec_of("a"), spec_of("b")
        busy = [start(request(pool, spec, 5.0, client="x")) for spec in (a, b)]
        await asyncio.sleep(2)
        waiting = [start(request(pool, spec, 1.0, client="x")) for spec in (a, b, a)]
        await asyncio.sleep(0.1)
        with pytest.raises(BackendOverloadedError, match="3 requests wait already"):
            await request(pool, b, client="x")
        modest = start(request(pool, b, 1.0, client="y"))
        with pytest.raises(BackendOverloadedError, match="engine of 'a' is overloaded: too many requests wait"):
            await waiting[2]
        await asyncio.gather(*busy, *waiting[:2], modest)
        await pool.aclose()

    simulate(main())


def test_an_exception_of_a_progress_callback_is_isolated():
    async def main():
        logged = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context["exception"]))
        pool = Machine().pool()

        def broken(_):
            raise ZeroDivisionError

        await asyncio.gather(*(request(pool, spec_of("a"), on_progress=broken) for _ in range(3)))
        assert {type(error) for error in logged} == {ZeroDivisionError}
        await pool.aclose()

    simulate(main())


def test_status_shows_every_engine():
    async def main():
        machine = Machine()
        pool = machine.pool(max_loaded=1, fairness_wait=100)
        tasks = [start(request(pool, spec_of("a", parallel=2, size=64), 5.0)) for _ in range(3)]
        tasks.append(start(request(pool, spec_of("b"), 5.0)))
        await asyncio.sleep(2)
        a, b = pool.status()
        assert (a.model, a.state, a.slots, a.slots_busy, a.queued, a.memory) == ("a", "ready", 2, 2, 1, 32)
        assert (b.model, b.state, b.slots, b.slots_busy, b.queued, b.memory) == ("b", "stopped", 1, 0, 1, None)
        await asyncio.gather(*tasks)
        await pool.aclose()

    simulate(main())


@pytest.mark.parametrize(
    ("name", "value"), [("max_queue", -1), ("max_loaded", 0), ("idle_timeout", -1), ("queue_timeout", float("inf"))]
)
def test_limits_out_of_range_are_named(name, value):
    with pytest.raises(ConfigError, match=name):
        PoolLimits(**{name: value})


def test_a_memory_budget_needs_an_estimate():
    with pytest.raises(ValueError, match="memory_of"):
        EnginePool(Machine().make, limits=PoolLimits(memory_budget=5))


def test_an_error_of_the_estimate_reaches_the_caller_and_leaves_nothing():
    async def main():
        machine = Machine()

        def memory_of(spec):
            raise EngineStartError("not a GGUF file")

        pool = EnginePool(machine.make, limits=PoolLimits(), memory_of=memory_of)
        with pytest.raises(EngineStartError, match="not a GGUF"):
            await request(pool, spec_of("a"))
        assert pool.status() == []
        await pool.aclose()

    simulate(main())


def test_loads_and_unloads_are_in_the_log_with_their_reason(caplog):
    caplog.set_level(logging.INFO, "miner.engine")

    async def main():
        machine = Machine(load=2.0)
        pool = machine.pool(max_loaded=1, idle_timeout=10)
        await request(pool, spec_of("a"))
        await request(pool, spec_of("b"))
        await asyncio.sleep(20)
        await pool.aclose()

    simulate(main())
    assert [record.getMessage() for record in caplog.records] == [
        "a is loaded (2.0 s).", "a is unloaded: b needs its memory.", "b is loaded (2.0 s).",
        "b is unloaded: no request for 10 s.",
    ]  # fmt: skip


def test_only_a_loaded_engine_expires():
    async def main():
        machine = Machine()
        pool = machine.pool(idle_timeout=10)
        await request(pool, spec_of("a"))
        assert status_of(pool, "a").expires_at is not None
        await asyncio.sleep(20)
        assert machine.running == []
        assert status_of(pool, "a").expires_at is None
        await pool.aclose()

    simulate(main())


def test_a_load_that_nobody_waits_for_any_more_gives_way():
    """But not at once: who has left may come again; and not where nobody else waits."""

    async def main():
        machine = Machine(load=300.0)
        machine.unknown.add("stuck")
        pool = machine.pool(memory_budget=10, fairness_wait=10.0, queue_timeout=1e4)
        loop = asyncio.get_running_loop()
        first = start(request(pool, spec_of("stuck")))
        await asyncio.sleep(5)
        other = start(request(pool, spec_of("good")))
        await asyncio.sleep(5)
        first.cancel()
        await asyncio.sleep(5)
        assert machine.running == ["stuck"]
        machine.load = 1.0
        await other
        assert loop.time() == pytest.approx(10 + 10 + machine.stop + 1 + 1)
        assert machine.running == ["good"]
        machine.load = 50.0
        alone = start(request(pool, spec_of("stuck")))
        await asyncio.sleep(5)
        alone.cancel()
        await asyncio.sleep(100)
        assert "stuck" in machine.running
        await pool.aclose()

    simulate(main())


def test_a_load_whose_requests_were_all_refused_gives_way():
    """A refusal is a way out like any other: nobody waits for that load any more. Who comes again counts until then."""

    async def main():
        machine = Machine(load=300.0)
        pool = machine.pool(max_loaded=1, fairness_wait=3.0, queue_timeout=6.0)
        for _ in range(2):
            with pytest.raises(BackendOverloadedError):
                await request(pool, spec_of("slow"))
        await asyncio.sleep(2)
        assert machine.running == ["slow"]
        machine.load = 1.0
        began = now()
        await request(pool, spec_of("fast"))
        assert now() - began == pytest.approx(3 - 2 + machine.stop + 1 + 1)
        assert machine.running == ["fast"]
        await pool.aclose()

    simulate(main())


def test_a_wait_for_a_load_that_is_too_long_says_so():
    """Nothing is overloaded then; and the time to come again is that of the load."""

    async def main():
        machine = Machine(load=100.0)
        pool = machine.pool(max_loaded=1, queue_timeout=6.0, fairness_wait=60.0)
        slow = start(request(pool, spec_of("slow")))
        await asyncio.sleep(1)
        with pytest.raises(BackendOverloadedError) as place:
            await request(pool, spec_of("fast"))
        with pytest.raises(BackendOverloadedError) as own:
            await slow
        assert own.value.message == "'slow' was still loading after 6 s."
        assert place.value.message == "'fast' waited 6 s for its place: 'slow' was loading."
        assert (own.value.hint, own.value.retry_after) == ("Try again in 6 s.", 6.0)
        assert "MINER_QUEUE_TIMEOUT" in own.value.operator_hint
        assert "preload" in own.value.operator_hint
        assert own.value.retryable
        assert place.value.retryable
        await pool.aclose()

        machine = Machine(load=20.0)  # what is known of the last load tells how long this one takes
        pool = machine.pool(max_loaded=1, queue_timeout=50.0)
        await request(pool, spec_of("slow"))
        await pool.unload("slow")
        pool.set_rules(machine.rules_of, replace(pool.limits, queue_timeout=17.0))
        with pytest.raises(BackendOverloadedError) as again:
            await request(pool, spec_of("slow"))
        assert again.value.retry_after == pytest.approx(3.0)
        await pool.aclose()

    simulate(main())
