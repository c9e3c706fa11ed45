"""Random mixes of requests against the pool, with what must hold at every step checked in simulated.py: never more
requests than slots, no load beyond memory, no busy engine stopped, one load at a time for each engine.
"""

import asyncio
import math
import random

import pytest

from miner.errors import EngineStoppedError, ServiceClosedError
from tests.core.engine.simulated import Machine, request, simulate, spec_of, start, use


class Mix:
    """What a seed stands for."""

    def __init__(self, seed):
        self.random = pick = random.Random(seed)
        self.machine = Machine(load=pick.uniform(0.2, 6.0), stop=pick.uniform(0.0, 1.0))
        self.specs = [
            spec_of(f"m{i}", parallel=pick.randint(1, 4), size=pick.randint(1, 5)) for i in range(pick.randint(2, 5))
        ]
        self.longest = pick.choice([0.5, 2.0, 8.0])
        self.limits = {
            "fairness_wait": pick.choice([0.0, 1.0, 5.0, 20.0]),
            "idle_grace": pick.choice([0.0, 0.3, 1.0]),
            "idle_timeout": pick.choice([None, 0.0, 3.0]),
            "queue_timeout": 1e4,
        }
        if pick.random() < 0.5:
            self.limits["max_loaded"] = pick.randint(1, len(self.specs))
        else:
            self.limits["memory_budget"] = pick.randint(5, 12)
        self.arrivals = pick.choice(["at once", "spread", "bursts"])

    def arrival(self, number):
        if self.arrivals == "at once":
            return 0.0
        if self.arrivals == "spread":
            return self.random.uniform(0, 120)
        return 30.0 * (number % 4)

    def keep_alive(self):
        return self.random.choice([None, None, None, 0.0, 2.0, -1.0])

    def longest_wait(self, ahead, most, spec):
        """The promise of turns.py for one that finds `ahead` requests of its model before it, where at most `most`
        wait for it at a time: each turn serves at least as many as there are slots, and between two turns of a model
        each other one has its own.
        """
        turns = math.ceil((ahead + 1) / spec.parallel)
        swap = self.machine.stop + self.machine.load
        # What others may finish first.
        finish = 2 * self.machine.load + math.ceil(most / spec.parallel) * self.longest
        turn = max(self.limits["fairness_wait"], 2 * self.machine.load, finish) + self.longest + swap
        # A large model that waits for room may have to see off two rounds of small ones, which went past it.
        return turns * 2 * len(self.specs) * turn


async def left_clean(pool):
    assert [(status.slots_busy, status.queued) for status in pool.status()] == [(0, 0)] * len(pool.status())
    await pool.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert all(handle.cancelled() for handle in asyncio.get_running_loop()._scheduled)


@pytest.mark.parametrize("seed", range(60))
def test_every_request_is_served_in_order_and_in_bounded_time(seed):
    async def main():
        mix = Mix(seed)
        pool = mix.machine.pool(**mix.limits)
        ahead, most = dict.fromkeys(mix.specs, 0), dict.fromkeys(mix.specs, 0)
        waits = []
        came = {spec: [] for spec in mix.specs}
        served = {spec: [] for spec in mix.specs}

        async def one(number, spec, at, seconds, keep_alive):
            await asyncio.sleep(at)
            before = ahead[spec]
            ahead[spec] += 1
            most[spec] = max(most[spec], ahead[spec])
            came[spec].append(number)
            async with use(pool, spec, keep_alive=keep_alive) as lease:
                served[spec].append(number)
                waits.append((before, spec, lease.queue_seconds + lease.load_seconds))
                assert min(lease.queue_seconds, lease.load_seconds) >= 0
                await asyncio.sleep(seconds)
            ahead[spec] -= 1

        await asyncio.gather(
            *(
                one(
                    number,
                    mix.random.choice(mix.specs),
                    mix.arrival(number),
                    mix.random.uniform(0, mix.longest),
                    mix.keep_alive(),
                )
                for number in range(200)
            )
        )
        assert served == came
        assert len(waits) == 200
        for before, spec, seconds in waits:
            assert seconds <= mix.longest_wait(before, most[spec], spec)
        await left_clean(pool)

    simulate(main())


@pytest.mark.parametrize("seed", range(60, 100))
def test_cancels_and_crashes_break_no_rule(seed):
    async def main():
        mix = Mix(seed)
        pool = mix.machine.pool(**mix.limits)
        ends = {"served": 0, "cancelled": 0}

        async def one(spec, at, seconds, keep_alive):
            await asyncio.sleep(at)
            try:
                await request(pool, spec, seconds, keep_alive=keep_alive)
            except asyncio.CancelledError:
                ends["cancelled"] += 1
                raise
            ends["served"] += 1

        async def trouble():
            while True:
                await asyncio.sleep(mix.random.uniform(0.5, 10.0))
                ready = [engine for engine in mix.machine.engines if engine.state == "ready"]
                if ready:
                    mix.random.choice(ready).crash()

        tasks, timers = [], []
        for number in range(200):
            spec, seconds = mix.random.choice(mix.specs), mix.random.uniform(0, mix.longest)
            at = mix.arrival(number)
            task = start(one(spec, at, seconds, mix.keep_alive()))
            tasks.append(task)
            if mix.random.random() < 0.3:
                moment = at + mix.random.choice([0.0, mix.random.uniform(0, 60)])
                timers.append(asyncio.get_running_loop().call_later(moment, task.cancel))
        crashes = start(trouble())
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for end in (crashes, *timers):
            end.cancel()
        await asyncio.wait([crashes])
        assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}
        assert ends["served"] > 100
        await asyncio.sleep(10)  # the last crash is noticed, the last idle engine goes
        await left_clean(pool)

    simulate(main())


@pytest.mark.parametrize("seed", range(100, 120))
def test_pins_and_unloads_in_the_middle_lose_no_request(seed):
    """Those that wait for a load which is unloaded are told, and come again."""

    async def main():
        mix = Mix(seed)
        mix.limits["memory_budget"] = 10  # a pin leaves room for each other one: sizes are 1 to 5
        mix.limits.pop("max_loaded", None)
        pool = mix.machine.pool(**mix.limits)

        async def hands():
            while True:
                await asyncio.sleep(mix.random.uniform(0.5, 5.0))
                name = mix.random.choice(mix.specs).alias
                pool.pin(name)
                await pool.unload(mix.random.choice(mix.specs))
                await asyncio.sleep(mix.random.uniform(0.5, 5.0))
                pool.unpin(name)

        async def one(number):
            await asyncio.sleep(mix.arrival(number))
            while True:
                try:
                    await request(pool, mix.random.choice(mix.specs), mix.random.uniform(0, mix.longest))
                except EngineStoppedError:
                    continue
                return

        helper = start(hands())
        await asyncio.gather(*(one(number) for number in range(150)))
        helper.cancel()
        await asyncio.wait([helper])
        await left_clean(pool)

    simulate(main())


@pytest.mark.parametrize("seed", range(120, 130))
def test_200_requests_over_three_models_swap_near_the_least_possible(seed):
    async def main():
        pick = random.Random(seed)
        machine = Machine(load=4.0, stop=0.5)
        pool = machine.pool(max_loaded=1, fairness_wait=15.0)
        specs = [spec_of(name, parallel=4) for name in "abc"]

        async def one(at, seconds):
            await asyncio.sleep(at)
            return await request(pool, pick.choice(specs), seconds)

        began = asyncio.get_running_loop().time()
        leases = await asyncio.gather(*(one(pick.uniform(0, 60), pick.uniform(0.5, 3.0)) for _ in range(200)))
        took = asyncio.get_running_loop().time() - began
        # A swap for each turn of 15 s and its load is what the bound on waiting costs; three loads are the least.
        assert 3 <= machine.loads <= took / (15.0 + 4.0) + 2
        assert max(lease.queue_seconds + lease.load_seconds for lease in leases) <= took
        await pool.aclose()

    simulate(main())


def test_an_engine_that_may_return_prepares_its_stop_and_others_do_not():
    async def main():
        machine = Machine()
        pool = machine.pool(max_loaded=1, prepare_timeout=5.0)
        one, two, three = (spec_of(alias) for alias in ("one", "two", "three"))
        await request(pool, one)
        await request(pool, two)  # evicts the first
        assert await pool.unload("two")
        assert machine.prepared == ["one done", "two done"]
        await request(pool, three, keep_alive=0.5)
        await asyncio.sleep(2.0)
        assert machine.prepared[2:] == ["three done"]
        await request(pool, three)
        pool.retire(three)
        await asyncio.sleep(1.0)
        await request(pool, one)
        await pool.aclose()
        assert len(machine.prepared) == 3

    simulate(main())


def test_a_stop_waits_for_its_preparation_no_longer_than_it_may():
    async def main():
        machine = Machine()
        machine.prepare = 100.0
        pool = machine.pool(max_loaded=1, prepare_timeout=5.0)
        loop = asyncio.get_running_loop()
        await request(pool, spec_of("one"))
        began = loop.time()
        await request(pool, spec_of("two"))
        assert 5.0 <= loop.time() - began < 15.0
        assert machine.prepared == ["one"]
        # Closing does not wait for it at all.
        waiting = start(request(pool, spec_of("one")))
        await asyncio.sleep(3.0)
        assert machine.prepared == ["one", "two"]
        began = loop.time()
        await pool.aclose()
        assert loop.time() - began < 1.0
        with pytest.raises(ServiceClosedError):
            await waiting

    simulate(main())
