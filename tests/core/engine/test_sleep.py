"""Commands that sleep instead of being stopped: on the wire, with a small server that has vLLM's routes for it."""

import asyncio
import os
import signal
from contextlib import asynccontextmanager

import pytest

from miner.core.engine.command_process import CommandProcess
from miner.core.engine.limits import PoolLimits
from miner.core.engine.pool import EnginePool
from miner.errors import EngineStartError
from tests.core.engine.children import PATIENCE, alive, ask
from tests.core.engine.test_command import command

pytestmark = pytest.mark.engine


def spec(name, *options, sleep=1, env=()):
    flags = ("--enable-sleep-mode",) if sleep else ()
    return command("--name", name, *flags, *options, backend=name, sleep=sleep, env=env)


@asynccontextmanager
async def pool_of(memory_of=lambda spec: 1, **limits):
    """A pool on one GPU that each engine fills."""
    limits = {"memory_budget": 1 << 40, "gpu_budget": (100,), "fairness_wait": 0.2, "idle_grace": 0.0, **limits}
    pool = EnginePool(
        lambda spec: CommandProcess(spec, start_timeout=PATIENCE, stop_grace=5.0),
        memory_of=memory_of, gpu_memory_of=lambda spec: (80,), limits=PoolLimits(**limits),
    )  # fmt: skip
    try:
        yield pool
    finally:
        await pool.aclose()


async def use(pool, wanted):
    """Chat once; return the engine's process id and what its sleep routes were asked so far."""
    async with asyncio.timeout(PATIENCE), pool.lease(wanted) as lease:
        body = {"messages": [], "max_tokens": 1, "model": "m"}
        status, reply = await asyncio.to_thread(ask, lease.address, "POST", "/v1/chat/completions", body)
        assert (status, reply["choices"][0]["message"]["content"]) == (200, f"{wanted.backend} ")
        return lease.engine.pid, (await asyncio.to_thread(ask, lease.address, "GET", "/calls"))[1]


def states(pool):
    return {status.model: status.state for status in pool.status()}


async def until(pool, name, state):
    async with asyncio.timeout(PATIENCE):
        while states(pool)[name] != state:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


WAKES = {1: ["/wake_up"], 2: ["/wake_up?tags=weights", "/collective_rpc", "/wake_up?tags=kv_cache"]}


@pytest.mark.parametrize("level", [1, 2])
async def test_two_share_a_gpu_by_turns_without_a_restart(level):
    first, second = spec("a", sleep=level), spec("b", sleep=level)
    async with pool_of() as pool:
        pid, _ = await use(pool, first)
        await use(pool, second)
        assert states(pool) == {"a": "sleeping", "b": "ready"}
        assert pool.loaded() == {second}
        assert await use(pool, first) == (pid, [f"/sleep?level={level}", *WAKES[level]])
        assert states(pool) == {"a": "ready", "b": "sleeping"}
        pids = [status.pid for status in pool.status()]
        assert all(map(alive, pids))
    assert not any(map(alive, pids)), "nothing is left of them"


async def test_one_that_cannot_sleep_is_stopped():
    first, second = spec("a", sleep=None), spec("b", env=(("VLLM_SERVER_DEV_MODE", "0"),))
    async with pool_of() as pool:
        await use(pool, first)
        await use(pool, second)
        assert states(pool) == {"a": "stopped", "b": "ready"}
        await use(pool, first)
        assert states(pool) == {"a": "ready", "b": "stopped"}, "it has no routes for sleep"


async def test_idle_for_too_long_it_sleeps_and_unload_stops_it():
    async with pool_of(idle_timeout=0.1) as pool:
        pid, _ = await use(pool, spec("a"))
        await until(pool, "a", "sleeping")
        assert alive(pid)
        assert (await use(pool, spec("a")))[0] == pid
        await until(pool, "a", "sleeping")
        assert await pool.unload(spec("a"))
        assert not alive(pid)
        assert not await pool.unload(spec("a"))
        assert (await use(pool, spec("a")))[0] != pid


async def test_main_memory_that_a_sleeper_holds_is_freed_for_another():
    first, second = spec("a", "--memory", str(200 << 20)), spec("b")
    async with pool_of(lambda spec: {"a": 250 << 20, "b": 150 << 20}[spec.backend], memory_budget=300 << 20) as pool:
        pid, _ = await use(pool, first)
        await use(pool, second)
        assert states(pool) == {"a": "stopped", "b": "ready"}
        assert not alive(pid)
        await use(pool, first)


async def test_one_that_does_not_wake_up_is_killed_and_started_again():
    first = spec("a", "--wake-fails")
    async with pool_of() as pool:
        pid, _ = await use(pool, first)
        await use(pool, spec("b"))
        with pytest.raises(
            EngineStartError, match=r"it did not wake up and has been killed \(POST /wake_up returned 500 .*memory"
        ):
            await use(pool, first)
        assert not alive(pid)
        assert (await use(pool, first))[0] != pid


async def test_one_that_is_killed_while_it_sleeps_is_started_again():
    async with pool_of() as pool:
        pid, _ = await use(pool, spec("a"))
        await use(pool, spec("b"))
        os.kill(pid, signal.SIGKILL)
        await until(pool, "a", "stopped")
        again, calls = await use(pool, spec("a"))
        assert (again != pid, calls) == (True, [])


async def test_a_retired_one_is_stopped_though_it_sleeps():
    async with pool_of() as pool:
        pid, _ = await use(pool, spec("a"))
        await use(pool, spec("b"))
        pool.retire(spec("a"))
        async with asyncio.timeout(PATIENCE):
            while alive(pid) or set(states(pool)) != {"b"}:  # noqa: ASYNC110  (its end is noted a moment later)
                await asyncio.sleep(0.02)
