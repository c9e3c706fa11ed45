"""No call of the library blocks the event loop while engines start, serve, hang, die and end."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from miner.errors import BackendError, BackendTimeoutError, EngineCrashedError
from tests.blocking import blocking_calls_fail
from tests.core.engine.test_launchers import make_binary
from tests.core.llms.contract.test_engine_errors import llamacpp, pid_of

pytestmark = pytest.mark.engine


@pytest.fixture(autouse=True)
def nothing_blocks():
    with blocking_calls_fail():
        yield


async def test_a_whole_life(tmp_path):
    async with llamacpp() as service:
        assert not (await service.health()).engines
        await service.list_models()
        await service.generate("Hi", max_tokens=2)
        async for _ in service.stream("Hi", max_tokens=3):
            await service.health()
        await service.count_tokens("Hi")
        await service.list_models()
        task = asyncio.create_task(service.generate("Tell a long story.", max_tokens=400))
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        alias = (await service.health()).models[0]
        await service.unload_model(alias)
        await service.load_model(alias)
        service.reset_model(alias)


async def test_an_engine_that_dies_and_starts_again():
    async with llamacpp() as service:
        for _ in range(3):
            await service.generate("Hi", max_tokens=1)
            os.kill(await pid_of(service), signal.SIGKILL)
            while (await service.health()).engines[0].pid is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        for _ in range(2):
            with pytest.raises(BackendError):
                await service.generate("Hi", max_tokens=1)
            await service.health()


async def test_an_engine_that_is_stopped():
    async with llamacpp() as service:
        await service.generate("Hi", max_tokens=1)
        os.kill(await pid_of(service), signal.SIGSTOP)
        with pytest.raises(EngineCrashedError):
            await service.generate("Hi", max_tokens=400)


async def test_an_engine_that_hangs():
    async with llamacpp(llamacpp_timeout=0.5, llamacpp_ctx_size=8192, llamacpp_batch_size=8192) as service:
        task = asyncio.create_task(service.generate("Hi", max_tokens=1))
        with pytest.raises(BackendTimeoutError):
            # One that reads this prompt for longer than that, on any machine.
            await service.generate("Hi " * 8000, max_tokens=1)
        await asyncio.gather(task, return_exceptions=True)


async def test_a_service_that_nobody_closes():
    async with llamacpp() as service:
        await service.generate("Hi", max_tokens=1)
        service._engines._host.started.kill_all()


async def test_the_users_own_binary(tmp_path):
    async with llamacpp(llamacpp_server=str(make_binary(tmp_path / "llama-server"))) as service:
        await service.generate("Hi", max_tokens=1)
        await service.health()
