"""The pool over real engines: three links to the demo model stand for three models."""

import asyncio
import os
import random
import signal
from dataclasses import replace

import aiohttp
import pytest

from miner.core.engine.launchers import find_launcher
from miner.core.engine.limits import PoolLimits
from miner.core.engine.pool import EnginePool
from miner.core.engine.process import EngineProcess
from miner.core.engine.spec import EngineSpec
from miner.core.models.resolve import resolve
from miner.errors import EngineCrashedError, EngineStartError
from tests.core.engine.children import PATIENCE

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    found = []
    for name in ("a", "b", "c"):
        link = directory / f"{name}.gguf"
        link.symlink_to(resolve("demo").path)
        found.append(EngineSpec(model_path=link, alias=name, ctx_size=256, parallel=4, batch_size=128))
    return found


def make(spec):
    return EngineProcess(spec, find_launcher())


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def complete(lease, tokens=4, began=None):
    """Ask the leased engine as the service does; returns the whole stream. `began` is set when its first bytes come."""
    body = {"prompt": "Once upon a time", "max_tokens": tokens, "stream": True, "ignore_eos": True}
    address = lease.address
    connector = aiohttp.UnixConnector(str(address.unix_socket)) if address.unix_socket else None
    headers = {"Authorization": f"Bearer {address.api_key}"} if address.api_key else {}
    async with (
        aiohttp.ClientSession(connector=connector, headers=headers) as session,
        session.post(f"{address.base_url}/v1/completions", json=body) as response,
    ):
        assert response.status == 200
        first = await response.content.readany()
        if began is not None:
            began.set()
        return (first + await response.read()).decode()


async def test_models_share_memory_for_one(specs):
    pool = EnginePool(make, limits=PoolLimits(max_loaded=1, fairness_wait=PATIENCE))
    pick = random.Random(1)
    pids = set()

    async def one(spec):
        async with pool.lease(spec) as lease:
            pids.add(lease.engine.pid)
            assert "[DONE]" in await complete(lease)
            running = [status.model for status in pool.status() if status.pid is not None]
            assert running == [spec.alias]

    await asyncio.gather(*(one(pick.choice(specs)) for _ in range(24)))
    assert len(pids) == 3  # each was loaded once
    (last,) = (status for status in pool.status() if status.pid is not None)
    assert last.memory > 50_000_000
    await pool.aclose()
    assert not any(alive(pid) for pid in pids)


async def test_a_killed_engine_fails_what_is_in_flight_and_serves_the_queue_again(specs):
    pool = EnginePool(make, limits=PoolLimits())
    spec = replace(specs[0], ctx_size=2048)  # long enough that no victim is done before it is killed
    streaming = [asyncio.Event() for _ in range(4)]

    async def victim(began):
        async with pool.lease(spec) as lease:
            with pytest.raises(aiohttp.ClientError):
                await complete(lease, tokens=2000, began=began)
            raise await lease.engine.wait_for_exit(lease.address)

    async def queued():
        async with pool.lease(spec) as lease:
            return lease.engine.restarts, await complete(lease)

    victims = [asyncio.ensure_future(victim(began)) for began in streaming]
    async with asyncio.timeout(PATIENCE):
        for began in streaming:
            await began.wait()
    waiting = [asyncio.ensure_future(queued()) for _ in range(6)]
    async with asyncio.timeout(PATIENCE):
        while pool.status()[0].queued < len(waiting):  # noqa: ASYNC110 (a queue's length is no event)
            await asyncio.sleep(0.01)
    os.kill(pool.status()[0].pid, signal.SIGKILL)
    ends = await asyncio.gather(*victims, return_exceptions=True)
    assert [(type(end), end.exit_status) for end in ends] == [(EngineCrashedError, -signal.SIGKILL)] * 4
    for restarts, text in await asyncio.gather(*waiting):
        assert restarts == 1
        assert "[DONE]" in text
    await pool.aclose()


async def test_a_broken_file_fails_all_who_ask_and_frees_the_room(specs, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\xff" * 4096)
    spec = EngineSpec(model_path=broken, alias="broken", ctx_size=256, parallel=1)
    pool = EnginePool(make, limits=PoolLimits(max_loaded=1))

    async def one(spec):
        async with pool.lease(spec) as lease:
            return await complete(lease)

    bad, worse, good = await asyncio.gather(one(spec), one(spec), one(specs[1]), return_exceptions=True)
    assert isinstance(bad, EngineStartError)
    assert isinstance(worse, EngineStartError)
    assert bad is not worse
    assert "[DONE]" in good
    await pool.aclose()


async def test_idle_unload_ends_the_process(specs):
    pool = EnginePool(make, limits=PoolLimits())
    async with pool.lease(specs[0], keep_alive=0) as lease:
        pid = lease.engine.pid
        assert alive(pid)
    async with asyncio.timeout(PATIENCE):
        while alive(pid) or pool.status()[0].state != "stopped":  # noqa: ASYNC110 (a process's end is no event of ours)
            await asyncio.sleep(0.05)
    await pool.aclose()


def test_a_second_loop_kills_the_engines_of_the_first(specs):
    pool = EnginePool(make, limits=PoolLimits())

    async def one(close):
        async with pool.lease(specs[0]) as lease:
            text = await complete(lease)
            pid = lease.engine.pid
        if close:
            await pool.aclose()
        return pid, text

    first, _ = asyncio.run(one(close=False))
    second, text = asyncio.run(one(close=True))
    assert "[DONE]" in text
    assert first != second
    assert not alive(first)
    assert not alive(second)
