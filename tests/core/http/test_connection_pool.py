"""How many connections there are at once, and who waits for one."""

from __future__ import annotations

import asyncio

import pytest

from miner.core.llms.LLMService import LLMService
from miner.errors import BackendOverloadedError, BackendUnavailableError
from tests.core.http.echo import CHAT, Echo, client
from tests.core.llms.contract.test_failures import Faulty
from tests.core.services import ENGINES, service_at
from tests.servers import faults
from tests.servers.faults import FaultServer


async def test_no_more_connections_than_there_may_be():
    async with Echo() as server:
        server.delay = 0.05
        http_client = client(server.v1, max_connections=3)
        replies = await asyncio.gather(*(http_client.request("POST", "/x", b"{}") for _ in range(12)))
        assert [reply.body for reply in replies] == [b"ok"] * 12
        assert server.most == 3
        await http_client.close()


async def test_streams_count_too_and_leave_their_place_however_they_end():
    async with FaultServer(faults.silent_in_stream()) as server:
        http_client = client(server.v1, max_connections=1, queue_timeout=0.3)
        async with http_client.stream("/chat/completions", CHAT) as answer:
            assert await answer.read_some()
            with pytest.raises(BackendOverloadedError, match=r"has 1 request in flight, the limit") as caught:
                await http_client.request("POST", "/chat/completions", CHAT)
            assert "MINER_MAX_CONNECTIONS" in str(caught.value)
            # What asks for facts, and must be quick, waits for nobody.
            assert (await http_client.request("GET", "/models", total=10.0)).status == 200
        server.behaviour = faults.reset()
        with pytest.raises(BackendUnavailableError):
            async with http_client.stream("/chat/completions", CHAT):
                pass
        server.behaviour = faults.ok()
        for _ in range(3):
            async with http_client.stream("/chat/completions", CHAT) as answer:
                await answer.read_all()
        await http_client.close()


async def test_who_waits_for_a_place_can_be_cancelled_and_leaves_none_behind():
    async with FaultServer(faults.silent()) as server:
        http_client = client(server.v1, max_connections=1)
        first = asyncio.create_task(http_client.request("GET", "/models"))
        await server.wait_for_requests()
        second = asyncio.create_task(http_client.request("GET", "/models"))
        await asyncio.sleep(0.05)
        for task in (second, first):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        server.behaviour = faults.ok()
        assert (await http_client.request("GET", "/models")).status == 200
        await http_client.close()


@pytest.mark.parametrize("engine", ENGINES)
async def test_the_number_of_connections_is_a_setting(engine: str):
    async with Faulty(faults.slow(0.05)) as server:
        service: LLMService = service_at(engine, server.url, default_model="smollm2", max_connections=2)
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, server.open_connections)
                await asyncio.sleep(0.005)

        await service.list_models()  # which asks with a bound of its own, so that it waits for nobody
        watching = asyncio.create_task(watch())
        assert await asyncio.gather(*(service.generate("hi") for _ in range(8))) == ["Hello there."] * 8
        watching.cancel()
        assert most <= 3  # one may be closing
        await service.aclose()
