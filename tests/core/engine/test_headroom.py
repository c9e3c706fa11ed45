"""Memory that other programs take, or leave, while the pool runs; and engines that take more than was estimated."""

import asyncio

import pytest

from miner.core.engine.headroom import FRESH_SECONDS, Headroom
from miner.core.engine.rules import EngineRules
from miner.errors import BackendOverloadedError, EngineStartError
from tests.core.engine.simulated import Machine, request, simulate, spec_of, start


class Outside:
    """A machine's memory of which others take some."""

    def __init__(self, total, taken=0):
        self.total, self.taken = total, taken
        self.measured = 0

    def __call__(self, running):
        self.measured += 1
        others = ("hog (pid 7) with 1 GiB",) if self.taken else ()
        return Headroom(self.total - self.taken, most_ram=self.total, others=others)


def run(main, outside, rules=None, **limits):
    async def whole():
        machine = Machine()
        machine.rules = rules or {}
        limits.setdefault("memory_budget", outside.total)
        pool = machine.pool(outside, **limits)
        machine.limits = type(pool.limits)()  # what is free changes: `main` checks it
        await main(machine, pool)
        await pool.aclose()

    simulate(whole())


def test_memory_that_others_took_is_made_room_for():
    outside = Outside(10)

    async def main(machine, pool):
        for name in "abc":
            await request(pool, spec_of(name, size=3))
        assert sorted(machine.running) == ["a", "b", "c"]
        outside.taken = 4
        await asyncio.sleep(2)
        await request(pool, spec_of("d", size=3))
        assert sorted(machine.running) == ["c", "d"], "the least recently used ones made room"

    run(main, outside)


def test_what_does_not_fit_beside_others_is_refused_with_the_numbers_and_who_it_is():
    outside = Outside(10, taken=6)

    async def main(machine, pool):
        with pytest.raises(BackendOverloadedError, match=r"'a' needs about 5 bytes, and 4 bytes are left") as caught:
            await request(pool, spec_of("a", size=5))
        assert caught.value.retry_after
        assert "hog (pid 7) with 1 GiB" in caught.value.operator_hint
        await request(pool, spec_of("b", size=4))
        outside.taken = 0
        await asyncio.sleep(2)
        await request(pool, spec_of("a", size=5))
        assert sorted(machine.running) == ["a", "b"]
        with pytest.raises(EngineStartError, match="'c' needs about 11 bytes"):
            await request(pool, spec_of("c", size=11))

    run(main, outside)


def test_a_refusal_evicts_nobody():
    outside = Outside(10)

    async def main(machine, pool):
        await request(pool, spec_of("small", size=2))
        outside.taken = 7
        await asyncio.sleep(2)
        with pytest.raises(BackendOverloadedError):
            await request(pool, spec_of("big", size=6))
        assert machine.running == ["small"]

    run(main, outside)


def test_beside_a_pinned_engine_the_others_are_named_too():
    outside = Outside(10, taken=5)

    async def main(machine, pool):
        await request(pool, spec_of("a", size=3))
        with pytest.raises(BackendOverloadedError, match=r"beside the pinned 'a'.*they hold 3 of 5") as caught:
            await request(pool, spec_of("b", size=3))
        assert "hog" in caught.value.operator_hint

    run(main, outside, {"a": EngineRules(pinned=True)})


def test_memory_that_was_not_there_at_start_is_used():
    outside = Outside(20, taken=15)

    async def main(machine, pool):
        await request(pool, spec_of("a", size=5))
        outside.taken = 0
        await asyncio.sleep(2)
        await request(pool, spec_of("b", size=12))
        assert sorted(machine.running) == ["a", "b"]

    run(main, outside, memory_budget=5)


def test_it_is_measured_before_loads_only_and_not_for_each():
    outside = Outside(10)

    async def main(machine, pool):
        await asyncio.gather(*(request(pool, spec_of(name, size=1), 0.0) for name in "abcdef"))
        assert outside.measured == 1
        for _ in range(50):
            await request(pool, spec_of("a", size=1), 1.0)
        assert outside.measured == 1
        await asyncio.sleep(2 * FRESH_SECONDS)
        await request(pool, spec_of("g", size=1))
        assert outside.measured == 2

    run(main, outside)


def test_an_eviction_goes_on_while_it_is_measured_again():
    outside = Outside(10)

    async def main(machine, pool):
        async def keep_busy():
            while True:
                await request(pool, spec_of("a", size=8, parallel=2), 3.0)

        busy = [start(keep_busy()) for _ in range(2)]
        await asyncio.sleep(1)
        busy.append(start(keep_busy()))
        await asyncio.sleep(10)
        lease = await request(pool, spec_of("b", size=8))
        assert lease.queue_seconds < 10
        for each in busy:
            each.cancel()
        await asyncio.wait(busy)

    run(main, outside, fairness_wait=1)


def test_a_measurement_that_fails_stops_nothing():
    def broken(running):
        raise OSError("no /proc")

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        machine = Machine()
        pool = machine.pool(broken, memory_budget=5)
        await request(pool, spec_of("a", size=3))
        await request(pool, spec_of("b", size=3))
        assert machine.running == ["b"]
        await pool.aclose()

    simulate(main())


# What engines really take


def test_an_engine_that_takes_more_than_estimated_counts_for_it():
    outside = Outside(10)

    async def main(machine, pool):
        machine.taken["a"] = 6
        await request(pool, spec_of("a", size=3))
        await request(pool, spec_of("b", size=5))
        assert machine.running == ["b"]
        await request(pool, spec_of("c", size=5))
        assert sorted(machine.running) == ["b", "c"]
        await request(pool, spec_of("a", size=3))
        assert machine.running == ["a"], "known from its last run"

    run(main, outside)


def test_an_engine_that_takes_more_than_all_of_the_budget_runs_alone_again():
    outside = Outside(10)

    async def main(machine, pool):
        machine.taken["a"] = 30
        for name in ("a", "b", "a"):
            await request(pool, spec_of(name, size=3))
            assert machine.running == [name]

    run(main, outside)


def test_an_engine_of_unknown_memory_gets_that_of_idle_ones_and_counts_for_what_it_took():
    outside = Outside(10)

    async def main(machine, pool):
        machine.unknown, machine.taken["command"] = {"command"}, 4
        for name in ("a", "b"):
            await request(pool, spec_of(name, size=3))
        await request(pool, spec_of("command"))
        assert machine.running == ["command"]
        for name in ("a", "b"):
            await request(pool, spec_of(name, size=3))
        assert sorted(machine.running) == ["a", "b", "command"]
        await request(pool, spec_of("c", size=6))
        await request(pool, spec_of("command"))
        assert sorted(machine.running) == ["c", "command"], "known from its first run"

    run(main, outside)


def test_nothing_is_loaded_beside_an_engine_of_unknown_memory_before_it_is_ready():
    outside = Outside(10)

    async def main(machine, pool):
        machine.unknown, machine.taken["command"] = {"command"}, 9
        busy = start(request(pool, spec_of("busy", size=1), 30.0))
        await asyncio.sleep(2)
        both = [start(request(pool, spec_of(name, size=3), 2.0)) for name in ("command", "a")]
        await asyncio.sleep(0.5)
        assert sorted(machine.running) == ["busy", "command"]
        await asyncio.gather(*both)
        assert machine.events.index(("stop", "command")) < machine.events.index(("load", "a"))
        await busy

    run(main, outside, fairness_wait=1)
