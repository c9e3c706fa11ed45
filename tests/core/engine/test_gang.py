"""Gang scheduling: engines without OpenMP that compute at once never run with more threads than there are cores."""

import asyncio
import logging
import random

import pytest

from miner.core.engine.gang import GangScheduler
from tests.core.engine.simulated import Machine, request, simulate, spec_of, start


class Clocked:
    """An engine that knows how long it has run, and not run, while it had requests."""

    def __init__(self, name, threads):
        self.name = name
        self.spinning_threads = threads
        self.suspended = self.can_bind = False
        self.switches = 0

    def suspend(self):
        assert not self.suspended
        self.suspended = True
        self.switches += 1

    def resume(self):
        assert self.suspended
        self.suspended = False


def allowed(engines, cores):
    running = [engine.spinning_threads for engine in engines if not engine.suspended]
    return sum(running) <= cores or len(running) == 1 or max(running) == 1


@pytest.mark.parametrize("seed", range(30))
def test_never_more_threads_than_cores_and_nobody_starves(seed):
    async def main():
        pick = random.Random(seed)
        cores = pick.choice([1, 2, 4, 8, 16])
        engines = [Clocked(str(n), pick.randint(1, cores + 1)) for n in range(pick.randint(2, 6))]
        gang, loop = GangScheduler(asyncio.get_running_loop()), asyncio.get_running_loop()
        for _ in range(8):
            busy = pick.sample(engines, pick.randint(0, len(engines)))
            gang.update(busy, cores)
            ran = dict.fromkeys(busy, 0.0)
            until, before = loop.time() + pick.choice([0.005, 0.3, 4.0]), loop.time()
            seconds = until - before
            while loop.time() < until:
                assert not any(engine.suspended for engine in engines if engine not in busy)
                assert allowed(busy, cores) if busy else True
                step = 0.001
                await asyncio.sleep(step)
                for engine in busy:
                    ran[engine] += 0 if engine.suspended else step
            if seconds > 1:  # each has its share of the time at least
                assert all(share >= 0.8 * seconds / len(busy) for share in ran.values()), ran
        gang.close()
        assert not any(engine.suspended for engine in engines)
        assert all(handle.cancelled() for handle in loop._scheduled)

    simulate(main())


def test_engines_that_fit_beside_each_other_run_together():
    async def main():
        gang, small, other = GangScheduler(asyncio.get_running_loop()), Clocked("a", 2), Clocked("b", 2)
        gang.update([small, other], 4)
        await asyncio.sleep(10)
        assert small.switches == other.switches == 0
        gang.update([small, other], 2)  # the limit has changed
        await asyncio.sleep(10)
        assert small.switches > 10
        assert other.switches > 10
        gang.update([small], 2)
        before = small.switches
        await asyncio.sleep(10)
        assert small.switches == before
        gang.close()

    simulate(main())


def test_single_threads_are_never_suspended():
    async def main():
        gang, engines = GangScheduler(asyncio.get_running_loop()), [Clocked(str(n), 1) for n in range(5)]
        gang.update(engines, 2)
        await asyncio.sleep(10)
        assert not any(engine.switches for engine in engines)
        gang.close()

    simulate(main())


def test_a_short_request_does_not_wait_for_the_end_of_a_slice_and_cannot_take_all_the_time():
    async def main():
        gang, long, short = GangScheduler(asyncio.get_running_loop()), Clocked("long", 2), Clocked("short", 2)
        gang.update([long], 2)
        await asyncio.sleep(5)
        gang.update([long, short], 2)
        await asyncio.sleep(0.03)
        assert long.suspended
        assert not short.suspended
        ran = 0.0
        for n in range(2000):  # one short request after another
            gang.update([long, short] if n % 20 else [long], 2)
            await asyncio.sleep(0.001)
            ran += 0.0 if long.suspended else 0.001
        assert ran > 0.8
        gang.close()

    simulate(main())


def test_more_threads_than_cores_are_logged_once(caplog):
    async def main():
        gang, engine = GangScheduler(asyncio.get_running_loop()), Clocked("a", 8)
        for _ in range(3):
            gang.update([engine], 2)
            gang.update([], 2)
        gang.close()

    with caplog.at_level(logging.WARNING, "miner.engine"):
        simulate(main())
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["An engine has 8 threads for 2 cores"]


def test_the_pool_suspends_engines_only_while_several_compute():
    async def main():
        machine = Machine(load=0.1)
        pool = machine.pool(cores=2)
        a, b, c = spec_of("a"), spec_of("b"), spec_of("c")
        await asyncio.gather(*(request(pool, spec, 0.1) for spec in (a, b, c)))
        for name, threads in (("a", 2), ("b", 2), ("c", 0)):
            machine.named(name).spinning_threads = threads
        engines = [machine.named(name) for name in "abc"]
        alone = start(request(pool, a, 1.0))
        await asyncio.sleep(0.5)
        assert not any(engine.suspended for engine in engines)
        await alone
        both = [start(request(pool, spec, 2.0)) for spec in (a, b, c)]
        states = set()
        for _ in range(100):
            await asyncio.sleep(0.01)
            states.add(tuple(engine.suspended for engine in engines))
        assert states == {(True, False, False), (False, True, False)}
        await asyncio.gather(*both)
        assert not any(engine.suspended for engine in engines)
        await pool.aclose()

    simulate(main())


def test_engines_with_openmp_are_bound_while_several_compute():
    async def main():
        machine = Machine(load=0.1)
        pool = machine.pool(cores=2)
        specs = [spec_of(name) for name in "abc"]
        await asyncio.gather(*(request(pool, spec, 0.1) for spec in specs))
        a, b, c = (machine.named(name) for name in "abc")
        a.can_bind = b.can_bind = True
        alone = start(request(pool, specs[0], 5.0))
        other = start(request(pool, specs[2], 5.0))  # on a GPU
        await asyncio.sleep(0.1)
        assert not a.bound
        await request(pool, specs[1], 1.0)
        await asyncio.sleep(0.5)
        assert [engine.bound for engine in (a, b, c)] == [True, True, False]
        await request(pool, specs[1], 1.0)
        assert a.bound
        await asyncio.sleep(1.1)
        assert not a.bound
        assert not b.bound
        assert not any(engine.suspended for engine in (a, b, c))
        await asyncio.gather(alone, other)
        both = [start(request(pool, spec, 1.0)) for spec in specs[:2]]
        await asyncio.sleep(0.1)
        assert a.bound
        await asyncio.gather(*both)
        await pool.aclose()
        assert all(handle.cancelled() for handle in asyncio.get_running_loop()._scheduled)

    simulate(main())
