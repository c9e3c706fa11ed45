"""The shares of engines without OpenMP: however they are loaded, they have no more threads than there are cores."""

import itertools
import random

import pytest

from miner.core.engine.procstat import physical_cores
from miner.core.engine.rules import GroupRule
from miner.core.engine.threads import Cores, CpuEngine, loaded_together, most_threads, thread_share, usable_cores


def may_be_loaded(engines, max_loaded, memory):
    """Whether the rules allow them together: as the pool decides it."""
    if max_loaded is not None and len(engines) > max_loaded:
        return False
    if memory is not None and sum(engine.size for engine in engines) > memory:
        return False
    for group in {group for engine in engines for group in engine.groups}:
        inside = [engine for engine in engines if group in engine.groups]
        if group.max_loaded is not None and len(inside) > group.max_loaded:
            return False
        if group.exclusive and len(inside) < len(engines):
            return False
    return True


@pytest.mark.parametrize("seed", range(300))
def test_never_above_the_cores_and_at_least_one(seed):
    pick = random.Random(seed)
    cores = pick.choice([1, 2, 3, 4, 8, 16, 64])
    groups = [GroupRule(str(n), pick.choice([None, 1, 2]), pick.random() < 0.3) for n in range(pick.randint(0, 3))]
    engines = [
        CpuEngine(
            threads=pick.randint(1, cores) if pick.random() < 0.2 else None,
            size=pick.randint(0, 5),
            groups=tuple(pick.sample(groups, pick.randint(0, min(2, len(groups))))),
        )
        for _ in range(pick.randint(1, 7))
    ]
    limits = {"max_loaded": pick.choice([None, 1, 2, 3]), "memory": pick.choice([None, 3, 8])}
    share = thread_share(cores, engines, **limits)
    assert 1 <= share <= cores
    most = most_threads(engines, share, **limits)
    for number in range(1, len(engines) + 1):
        for together in itertools.combinations(engines, number):
            if may_be_loaded(together, **limits):
                assert number <= loaded_together(engines, **limits)
                threads = sum(engine.threads or share for engine in together)
                assert threads <= most
                assert threads <= cores or share == 1 or all(engine.threads for engine in together)


def test_shares():
    eight = [CpuEngine() for _ in range(8)]
    assert thread_share(8, eight[:1]) == 8
    assert thread_share(8, eight[:2]) == 4
    assert thread_share(8, eight[:3]) == 2
    assert thread_share(8, eight) == 1
    assert thread_share(2, eight) == 1
    assert thread_share(8, []) == 8
    assert thread_share(8, eight, max_loaded=2) == 4
    assert thread_share(8, [CpuEngine(size=3) for _ in range(4)], memory=7) == 4
    assert thread_share(8, [CpuEngine(threads=6), CpuEngine(), CpuEngine()]) == 1
    assert thread_share(8, [CpuEngine(threads=6), CpuEngine()]) == 2
    one_of = GroupRule("big", max_loaded=1)
    assert thread_share(8, [CpuEngine(groups=(one_of,)) for _ in range(5)]) == 8
    assert thread_share(8, [CpuEngine(), *(CpuEngine(groups=(one_of,)) for _ in range(5))]) == 4
    alone = GroupRule("alone", exclusive=True)
    assert thread_share(8, [CpuEngine(groups=(alone,)), CpuEngine(), CpuEngine()]) == 4


def test_the_cores_are_those_of_this_process_and_of_the_limit():
    assert usable_cores() == physical_cores()
    assert usable_cores(1) == 1
    assert usable_cores(10**6) == physical_cores()
    assert Cores(1).count == Cores(1).share() == 1
    cores = Cores()
    assert cores.share() == physical_cores()  # nothing says who else there is
    cores.sharing = lambda count: 1
    assert cores.share() == 1
    cores.sharing = lambda count: count + 1
    assert cores.share() == physical_cores()
