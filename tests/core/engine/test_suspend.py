"""An engine that takes turns with others is suspended and goes on: that is no crash, and ends by itself."""

import asyncio
import os
import signal
import time

import psutil
import pytest

from miner.core.engine.launchers import find_launcher
from miner.core.engine.process import EngineProcess
from tests.core.engine.children import PATIENCE, alive, completion, demo_spec, eventually
from tests.core.engine.test_launchers import make_binary

pytestmark = pytest.mark.engine


@pytest.fixture(params=["wheel", "binary"])
async def engine(request, tmp_path):
    binary = str(make_binary(tmp_path / "llama-server")) if request.param == "binary" else None
    engine = EngineProcess(demo_spec(), find_launcher(binary))
    await asyncio.wait_for(engine.ensure_ready(), PATIENCE)
    yield engine
    engine.kill()
    await asyncio.wait_for(engine.stop(), PATIENCE)


def family(engine):
    process = psutil.Process(engine.pid)
    return [process, *process.children(recursive=True)]


def all_stopped(engine):
    return all(each.status() == psutil.STATUS_STOPPED for each in family(engine))


def none_stopped(engine):
    return not any(each.status() == psutil.STATUS_STOPPED for each in family(engine))


async def test_it_computes_nothing_until_it_is_resumed_and_does_not_count_as_hanging(engine):
    pid, address = engine.pid, await engine.ensure_ready()
    engine.suspend()
    await asyncio.to_thread(eventually, lambda: all_stopped(engine), "all are suspended")
    answer = asyncio.create_task(asyncio.to_thread(completion, address))
    until = time.monotonic() + 1.5  # others would be killed by now
    while time.monotonic() < until:
        await asyncio.sleep(0.1)
        assert not answer.done()
        assert (engine.pid, engine.state) == (pid, "ready")
    engine.resume()
    assert "Paris" in await asyncio.wait_for(answer, PATIENCE)
    assert engine.restarts == 0


async def test_it_goes_on_by_itself_if_nobody_resumes_it(engine):
    address = await engine.ensure_ready()
    engine.suspend()
    assert "Paris" in await asyncio.wait_for(asyncio.to_thread(completion, address), PATIENCE)
    assert none_stopped(engine)
    assert engine.restarts == 0


@pytest.mark.parametrize("way", ["stop", "kill", "fail"])
async def test_a_suspended_engine_ends_as_any_other(engine, way):
    pids = [each.pid for each in family(engine)]
    engine.suspend()
    if way == "stop":
        await asyncio.wait_for(engine.stop(), PATIENCE)
    elif way == "kill":
        engine.kill()
    else:
        engine.fail("it is tired")
    await asyncio.to_thread(eventually, lambda: not any(map(alive, pids)), "all are gone")
    engine.suspend()  # there is nobody to suspend
    engine.resume()
    await asyncio.to_thread(eventually, lambda: engine.pid is None, "it has been reaped")


async def test_a_suspension_by_somebody_else_is_a_crash_as_before(engine):
    address = await engine.ensure_ready()
    engine.suspend()
    engine.resume()
    os.killpg(engine.pid, signal.SIGSTOP)
    died = await asyncio.wait_for(engine.wait_for_exit(address), PATIENCE)
    assert "it was suspended" in died.message
