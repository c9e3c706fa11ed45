"""Priorities, groups and pins of engines, with simulated engines: what may be loaded together is checked by
simulated.py at every load.
"""

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.core.engine.limits import PoolLimits
from miner.core.engine.rules import EngineRules, GroupRule, combined
from miner.errors import BackendOverloadedError
from tests.core.engine.simulated import Machine, request, simulate, spec_of, start


def run(main, rules, **limits):
    """Run `main(machine, pool)` on a virtual clock."""

    async def whole():
        machine = Machine()
        machine.rules = rules
        pool = machine.pool(**limits)
        await main(machine, pool)
        await pool.aclose()

    simulate(whole())


ONE = EngineRules(groups=(GroupRule("chat", max_loaded=1),))
ALONE = EngineRules(groups=(GroupRule("huge", exclusive=True),))


# Groups


def test_a_group_that_allows_one_evicts_its_own_and_nobody_else():
    async def main(machine, pool):
        for name in ("a", "vectors", "b", "vectors", "a"):
            await request(pool, spec_of(name))
        assert sorted(machine.running) == ["a", "vectors"]
        assert machine.events.count(("load", "vectors")) == 1

    run(main, {"a": ONE, "b": ONE})


def test_a_group_that_allows_two_evicts_its_least_recently_used():
    async def main(machine, pool):
        for name in ("other", "a", "b", "a", "c"):
            await request(pool, spec_of(name))
        assert sorted(machine.running) == ["a", "c", "other"]

    two = EngineRules(groups=(GroupRule("chat", max_loaded=2),))
    run(main, dict.fromkeys("abc", two))


def test_an_exclusive_group_runs_alone_and_its_members_together():
    async def main(machine, pool):
        for name in ("small", "chat", "big", "bigger"):
            await request(pool, spec_of(name))
        assert sorted(machine.running) == ["big", "bigger"]
        await request(pool, spec_of("small"))
        assert machine.running == ["small"]

    run(main, {"big": ALONE, "bigger": ALONE})


def test_a_busy_engine_of_the_group_is_waited_for():
    async def main(machine, pool):
        long = start(request(pool, spec_of("a"), 30.0))
        await asyncio.sleep(2)
        lease = await request(pool, spec_of("b"))
        assert long.done()
        assert lease.queue_seconds > 25
        assert machine.running == ["b"]

    run(main, {"a": ONE, "b": ONE}, fairness_wait=1)


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        ({"a": ONE, "b": ONE}, "group 'chat' allows 1 loaded at once, and 'a' is pinned"),
        ({"b": ALONE}, "beside the pinned 'a': group 'huge' with 'b' allows no other model beside it"),
        ({"a": ALONE}, "beside the pinned 'a': group 'huge' with 'a' allows no other model beside it"),
    ],
)
def test_what_a_pinned_engine_keeps_out_is_refused_with_the_group(rules, named):
    async def main(machine, pool):
        pool.pin("a")
        await request(pool, spec_of("a"))
        with pytest.raises(BackendOverloadedError) as caught:
            await request(pool, spec_of("b"))
        assert named in caught.value.message
        assert machine.running == ["a"]

    run(main, rules)


# Priorities


def test_an_engine_with_requests_is_not_evicted_for_lower_priority():
    async def main(machine, pool):
        async def keep_busy():
            for _ in range(100):
                await request(pool, spec_of("high"), 2.0)

        busy = start(keep_busy())
        await asyncio.sleep(5)
        lease = await request(pool, spec_of("low"))
        assert busy.done(), "evicted while it had requests"
        assert machine.events.count(("load", "high")) == 1
        assert lease.queue_seconds > 190

    run(main, {"high": EngineRules(priority=5)}, max_loaded=1, fairness_wait=1)


def test_an_idle_engine_of_higher_priority_is_evicted():
    async def main(machine, pool):
        await request(pool, spec_of("high"))
        lease = await request(pool, spec_of("low"))
        assert lease.queue_seconds < 2
        assert machine.running == ["low"]

    run(main, {"high": EngineRules(priority=5)}, max_loaded=1)


def test_of_two_that_wait_the_higher_loads_first():
    async def main(machine, pool):
        first = start(request(pool, spec_of("first"), 20.0))
        await asyncio.sleep(2)
        low = start(request(pool, spec_of("low"), 5.0))
        await asyncio.sleep(2)
        await request(pool, spec_of("high"), 5.0)
        assert first.done()
        assert not low.done()
        await low
        assert [name for event, name in machine.events if event == "load"] == ["first", "high", "low"]

    run(main, {"high": EngineRules(priority=1)}, max_loaded=1, fairness_wait=1)


def test_a_higher_one_does_not_wait_for_the_whole_time_slice():
    async def main(machine, pool):
        low = spec_of("low")
        queue = [start(request(pool, low, 1.0)) for _ in range(100)]
        await asyncio.sleep(10)
        lease = await request(pool, spec_of("high"))
        assert lease.queue_seconds < 3
        await asyncio.gather(*queue)

    run(main, {"high": EngineRules(priority=1)}, max_loaded=1, fairness_wait=60)


def test_a_lower_one_takes_no_memory_for_which_a_higher_one_waits():
    async def main(machine, pool):
        long = start(request(pool, spec_of("busy", size=6), 20.0))
        await asyncio.sleep(2)
        high = start(request(pool, spec_of("high", size=8)))
        await asyncio.sleep(1)
        low = start(request(pool, spec_of("low", size=3), 30.0))
        await asyncio.gather(high, long)
        assert not low.done()
        await low

    run(main, {"high": EngineRules(priority=1)}, memory_budget=10, fairness_wait=10)


def test_a_wait_for_higher_priority_says_so_when_it_is_over():
    async def main(machine, pool):
        long = start(request(pool, spec_of("high"), 100.0))
        await asyncio.sleep(2)
        with pytest.raises(BackendOverloadedError, match=r"'high' \(priority 2\) has requests.*\(priority -1\)"):
            await request(pool, spec_of("low"))
        long.cancel()
        await asyncio.wait([long])

    run(
        main,
        {"high": EngineRules(priority=2), "low": EngineRules(priority=-1)},
        max_loaded=1, fairness_wait=1, queue_timeout=50,
    )  # fmt: skip


# Pins and keep_alive by rule, and changes while engines run


def test_pins_and_keep_alive_of_the_rules():
    async def main(machine, pool):
        for name in ("pinned", "brief", "other"):
            await request(pool, spec_of(name))
        await asyncio.sleep(4)
        assert sorted(machine.running) == ["other", "pinned"]
        await asyncio.sleep(10)
        assert machine.running == ["pinned"]
        await request(pool, spec_of("brief"), keep_alive=-1)
        await asyncio.sleep(100)
        assert sorted(machine.running) == ["brief", "pinned"]

    run(main, {"pinned": EngineRules(pinned=True), "brief": EngineRules(keep_alive=1.0)}, idle_timeout=8)


def test_rules_change_while_engines_run():
    async def main(machine, pool):
        long = start(request(pool, spec_of("a"), 20.0))
        for name in ("b", "c"):
            await request(pool, spec_of(name))
        machine.rules = dict.fromkeys("abc", ONE)
        pool.set_rules(machine.rules_of)
        await asyncio.sleep(1)
        assert machine.running == ["a"], "idle ones go, a busy one finishes"
        await long
        machine.limits = PoolLimits(max_loaded=2)
        machine.rules = {}
        pool.set_rules(machine.rules_of, machine.limits)
        for name in ("b", "c"):
            await request(pool, spec_of(name))
        assert sorted(machine.running) == ["b", "c"]

    run(main, {})


def test_two_busy_engines_that_may_not_stay_together_finish_their_requests():
    async def main(machine, pool):
        both = [start(request(pool, spec_of(name), 20.0)) for name in "ab"]
        await asyncio.sleep(5)
        machine.rules = dict.fromkeys("ab", ONE)
        pool.set_rules(machine.rules_of)
        later = start(request(pool, spec_of("a")))
        await asyncio.gather(*both)
        await later
        assert machine.running == ["a"]

    run(main, {}, fairness_wait=1)


def test_the_rules_of_an_engine_that_models_share_are_the_strongest():
    one, two = GroupRule("one"), GroupRule("two", 1)
    assert combined([]) == EngineRules()
    assert combined(
        [
            EngineRules(priority=-3, keep_alive=5, groups=(one,)),
            EngineRules(pinned=True, keep_alive=60, groups=(one, two)),
        ]
    ) == EngineRules(priority=0, pinned=True, keep_alive=60, groups=(one, two))
    assert combined([EngineRules(keep_alive=5), EngineRules(keep_alive=-1)]).keep_alive == -1
    assert combined([EngineRules(keep_alive=5), EngineRules()]).keep_alive is None


# Any table, any load


@st.composite
def tables(draw):
    """Sizes and rules of some models, and the limits; each model may be loaded alone."""
    names = [f"m{number}" for number in range(draw(st.integers(2, 6)))]
    groups = [
        GroupRule(f"g{number}", draw(st.sampled_from([None, 1, 2])), draw(st.booleans()))
        for number in range(draw(st.integers(0, 3)))
    ]
    rules = {
        name: EngineRules(
            priority=draw(st.sampled_from([0, 0, 0, 1, -1])),
            keep_alive=draw(st.sampled_from([None, None, 0.0, 5.0])),
            groups=tuple(group for group in groups if draw(st.booleans())),
        )
        for name in names
    }
    sizes = {name: draw(st.integers(1, 5)) for name in names}
    limits = {
        "memory_budget": draw(st.sampled_from([None, 5, 7, 12])),
        "max_loaded": draw(st.sampled_from([None, None, 1, 2])),
        "fairness_wait": draw(st.sampled_from([0.0, 1.0, 10.0])),
    }
    return rules, sizes, limits, draw(st.integers(0, 2**32))


@settings(max_examples=150)
@given(tables())
def test_nothing_is_loaded_against_the_rules_and_every_request_is_served(table):
    """Requests end some time: so even the lowest priority has its turn."""
    rules, sizes, limits, seed = table
    pick = random.Random(seed)

    async def main(machine, pool):
        async def one(name, at, seconds):
            await asyncio.sleep(at)
            await request(pool, spec_of(name, size=sizes[name], parallel=2), seconds)

        async def change():
            while True:
                await asyncio.sleep(pick.uniform(1, 30))
                pool.set_rules(machine.rules_of)

        changes = start(change())
        await asyncio.gather(
            *(one(pick.choice(list(rules)), pick.uniform(0, 60), pick.uniform(0, 4)) for _ in range(60))
        )
        changes.cancel()
        await asyncio.wait([changes])

    run(main, rules, queue_timeout=1e5, **limits)


@settings(max_examples=100)
@given(tables())
def test_nobody_starves_within_a_priority(table):
    """While all others of its priority and below are requested without end, a model is loaded in bounded time."""
    rules, sizes, limits, seed = table
    pick = random.Random(seed)
    highest = max(rule.priority for rule in rules.values())
    patient = pick.choice([name for name, rule in rules.items() if rule.priority == highest])

    async def main(machine, pool):
        async def keep_on(name):
            while True:
                await request(pool, spec_of(name, size=sizes[name]), pick.uniform(0.1, 4))

        others = [start(keep_on(name)) for name in rules if name != patient for _ in range(2)]
        await asyncio.sleep(pick.uniform(0, 60))
        for _ in range(3):
            lease = await request(pool, spec_of(patient, size=sizes[patient]), 0.1)
            assert lease.queue_seconds <= len(rules) * (2 * limits["fairness_wait"] + 30)
        for other in others:
            other.cancel()
        await asyncio.wait(others)

    run(main, rules, queue_timeout=1e5, **limits)
