"""What goes over the wire: statuses of early failures, error events of late ones, hang-ups, slow readers, bodies."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from miner.core.llms.llm_vllm import VLLMService
from miner.core.llms.LLMService import LLMService
from miner.core.wire import LLMChunk, TokenUsage
from miner.errors import BackendUnavailableError
from tests.gateway.serving import Parrot, config, post, serving
from tests.servers import faults
from tests.servers.openai_stub import StubServer

WAIT = 60
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


class Scripted(LLMService):
    """Plays what a test says, and notes when its stream was closed."""

    def __init__(self, play):
        super().__init__(config(default_model="m"))
        self.play = play
        self.closed = asyncio.Event()
        self.started = asyncio.Event()
        self.delivered = asyncio.Event()
        """The gateway came back for more after the first batch, so it has written that."""

    @property
    def capabilities(self):
        return frozenset({"chat", "raw"})

    async def _stream(self, request):
        self.started.set()
        try:
            async for batch in self.play():
                yield batch
                self.delivered.set()
        finally:
            self.closed.set()

    async def _chat(self, request):
        self.started.set()
        try:
            async for _ in self.play():
                self.delivered.set()
        finally:
            self.closed.set()


async def endless(pause=0.01):
    while True:
        yield [LLMChunk(content="x")]
        await asyncio.sleep(pause)


async def never():
    await asyncio.sleep(3600)
    yield []


@pytest.mark.parametrize(
    ("behaviour", "status"),
    [
        (faults.status(503, {"error": {"message": "loading"}}), 503),
        (faults.status(429, {"error": {"message": "busy"}}), 429),
        (faults.reset(), 503),
        (faults.garbage_http(), 502),
        ((400, {"error": {"message": "no"}}), 400),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_early_failure_has_its_own_status(behaviour, status, stream):
    async with StubServer(reply=behaviour) as engine:
        service = VLLMService(config(vllm_api_base=engine.v1, max_retries=0))
        async with serving(service) as served, post(served, {**CHAT, "stream": stream}) as answer:
            body = await answer.json()
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/json"
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert ("Retry-After" in answer.headers) is (status in (429, 503))


@pytest.mark.parametrize("behaviour", [faults.reset(["Hel", "lo"]), faults.no_end(), faults.error_in_stream()])
async def test_a_late_failure_is_an_error_event_and_no_normal_end(behaviour):
    async with StubServer(reply=behaviour) as engine:
        service = VLLMService(config(vllm_api_base=engine.v1, max_retries=0))
        async with serving(service) as served, post(served, {**CHAT, "stream": True}) as answer:
            text = await answer.text()
    events = [json.loads(line[6:]) for line in text.split("\n\n") if line]
    assert answer.status == 200
    assert "[DONE]" not in text
    assert events[-1]["error"]["type"] == "server_error"
    assert all("choices" in event for event in events[:-1])
    assert len(events) > 2
    assert str(engine.port) not in text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("play", [endless, never])
async def test_a_client_that_hangs_up_stops_the_backend(play, stream):
    service = Scripted(play)
    async with serving(service) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(served.url.rpartition(":")[2]))
        body = json.dumps({**CHAT, "stream": stream}).encode()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        await asyncio.wait_for(service.started.wait(), WAIT)
        if stream and play is endless:
            await reader.readuntil(b'"x"')
        writer.close()
        await asyncio.wait_for(service.closed.wait(), WAIT)
        await asyncio.wait_for(served.gateway.wait_until_idle(WAIT), 2 * WAIT)
        assert not served.gateway.running
        assert not served.gateway.streams


async def test_each_batch_is_written_at_once():
    release = asyncio.Event()

    async def play():
        yield [LLMChunk(content="a"), LLMChunk(content="b")]
        await release.wait()
        yield [LLMChunk(content="c", finish_reason="stop", usage=TokenUsage(1, 3, 4))]

    service = Scripted(play)
    async with serving(service) as served, post(served, {**CHAT, "stream": True}) as answer:
        got = b""
        while b'"b"' not in got:
            got += await asyncio.wait_for(answer.content.readany(), WAIT)
        assert not release.is_set()
        release.set()
        got += await answer.content.read()
    contents = [
        event["choices"][0]["delta"].get("content")
        for line in got.decode().split("\n\n")
        if line and (event := line[6:]) != "[DONE]" and (event := json.loads(event))["choices"]
    ]
    assert contents == ["", "a", "b", "c", None]


async def test_a_client_that_does_not_read_is_dropped_and_the_backend_stopped():
    async def flood():
        while True:
            yield [LLMChunk(content="x" * 200_000)]
            await asyncio.sleep(0)

    service = Scripted(flood)
    async with serving(service, serve_write_timeout=0.3) as served, post(served, {**CHAT, "stream": True}):
        await asyncio.wait_for(service.closed.wait(), WAIT)


async def test_heartbeats_while_nothing_comes():
    release = asyncio.Event()

    async def play():
        await release.wait()
        yield [LLMChunk(content="late", finish_reason="stop")]

    service = Scripted(play)
    async with serving(service, serve_heartbeat=0.1) as served, post(served, {**CHAT, "stream": True}) as answer:
        first = await asyncio.wait_for(answer.content.readline(), WAIT)
        release.set()
        rest = await answer.text()
    assert first == b": keep-alive\n"
    assert '"late"' in rest
    assert rest.endswith("data: [DONE]\n\n")


async def test_a_failure_after_a_heartbeat_is_an_error_event():
    fail = asyncio.Event()

    async def play():
        await fail.wait()
        raise BackendUnavailableError("gone")
        yield []

    service = Scripted(play)
    service.config.max_retries = 0
    async with serving(service, serve_heartbeat=0.05) as served, post(served, {**CHAT, "stream": True}) as answer:
        assert await asyncio.wait_for(answer.content.readline(), WAIT) == b": keep-alive\n"
        fail.set()
        text = await answer.text()
    assert answer.status == 200
    assert '"code":"backend_unavailable"' in text
    assert "[DONE]" not in text


@pytest.mark.parametrize("stream", [False, True])
async def test_the_end_of_the_grace_time_is_a_typed_error(stream):
    service = Scripted(endless)
    async with serving(service) as served:

        async def ask():
            async with post(served, {**CHAT, "stream": stream}) as answer:
                return answer.status, await answer.text()

        asking = asyncio.create_task(ask())
        await asyncio.wait_for(service.started.wait(), WAIT)
        await asyncio.wait_for(service.delivered.wait(), WAIT)
        for context in list(served.gateway.requests):
            context.interrupt()
        status, text = await asyncio.wait_for(asking, WAIT)
        await asyncio.wait_for(service.closed.wait(), WAIT)
    assert status == (200 if stream else 503)
    assert '"code":"shutting_down"' in text
    assert "[DONE]" not in text


async def test_draining_refuses_work_and_says_not_ready():
    async with serving(Parrot(config())) as served, aiohttp.ClientSession() as session:
        async with session.get(f"{served.url}/readyz") as ready:
            assert ready.status == 200
        served.gateway.phase = "draining"
        async with post(served, CHAT) as answer:
            assert answer.status == 503
            assert answer.headers["Connection"] == "close"
            assert (await answer.json())["error"]["code"] == "shutting_down"
        async with session.get(f"{served.url}/readyz") as ready:
            assert (ready.status, (await ready.json())["reason"]) == (503, "the server is shutting down")
        async with session.get(f"{served.url}/livez") as alive:
            assert alive.status == 200


async def test_not_ready_while_requests_run_and_nothing_comes():
    service = Scripted(never)
    async with serving(service, serve_stall=0.2) as served, aiohttp.ClientSession() as session:
        async with session.get(f"{served.url}/readyz") as ready:
            assert ready.status == 200
        asking = asyncio.create_task(session.post(f"{served.url}/v1/chat/completions", json=CHAT))
        await asyncio.wait_for(service.started.wait(), WAIT)
        await asyncio.sleep(0.4)
        async with session.get(f"{served.url}/readyz") as ready:
            assert ready.status == 503
            assert "no token has come" in (await ready.json())["reason"]
        asking.cancel()


async def test_not_ready_when_the_backend_is_down():
    service = VLLMService(config(vllm_api_base="http://127.0.0.1:9/v1"))
    async with (
        serving(service) as served,
        aiohttp.ClientSession() as session,
        session.get(f"{served.url}/readyz") as ready,
    ):
        assert ready.status == 503
        assert (await ready.json())["reason"]


async def test_not_ready_until_the_default_model_is_loaded():
    release = asyncio.Event()

    async def play():
        await release.wait()
        yield [LLMChunk(content="x", finish_reason="stop")]

    service = Scripted(play)
    async with serving(service, serve_preload=True) as served, aiohttp.ClientSession() as session:
        async with session.get(f"{served.url}/readyz") as ready:
            assert (ready.status, (await ready.json())["reason"]) == (503, "the default model is being loaded")
        release.set()
        for _ in range(500):
            async with session.get(f"{served.url}/readyz") as ready:
                if ready.status == 200:
                    break
            await asyncio.sleep(0.02)
        assert ready.status == 200


async def test_request_ids_go_in_and_out():
    async with serving(Parrot(config())) as served:
        async with post(served, CHAT, headers={"x-request-id": "abc-123"}) as answer:
            assert answer.headers["x-request-id"] == "abc-123"
        async with post(served, CHAT, headers={"x-request-id": "a b\tc" * 99}) as answer:
            assert len(answer.headers["x-request-id"]) == 32
        async with post(served, {**CHAT, "stream": True}, headers={"x-request-id": "s1"}) as answer:
            assert answer.headers["x-request-id"] == "s1"
        async with post(served, {"bad": 1}, headers={"x-request-id": "e1"}) as answer:
            assert (answer.status, answer.headers["x-request-id"]) == (400, "e1")


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "body is empty"),
        (b"{", 400, "not valid JSON"),
        (b"[]", 400, "Invalid type for the request body"),
        (b'{"messages": "x"}', 400, "Invalid type for 'messages'"),
        (b'{"model": "m"}', 400, "Missing required parameter: 'messages'"),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', 400, "not valid JSON"),
        (b"[" * 500_000, 400, "expected `object`"),
        (b'{"tool_choice":' * 50_000, 400, "nested too deeply"),
        (b'{"messages":[],"tools":' + b"[" * 5000 + b"]" * 5000 + b"}", 400, "nested"),
        (b'{"messages":[{"role":"user","content":"x"}],"tools":' + b"[" * 90 + b"]" * 90 + b"}", 400, "64 levels"),
        (b" " * 70_000, 413, "65536 bytes"),
    ],
)
async def test_bad_bodies(body, status, said):
    limit = 65_536 if status == 413 else 2 << 20
    async with serving(Parrot(config()), serve_max_body=limit) as served, post(served, body) as answer:
        text = await answer.text()
    assert answer.status == status, text
    assert said in json.loads(text)["error"]["message"]


async def test_a_chunked_body_that_is_too_big():
    async def pieces():
        for _ in range(100):
            yield b" " * 1000

    async with (
        serving(Parrot(config()), serve_max_body=65_536) as served,
        aiohttp.ClientSession() as session,
        session.post(f"{served.url}/v1/chat/completions", data=pieces()) as answer,
    ):
        assert answer.status == 413


async def test_a_body_that_never_ends():
    async with serving(Parrot(config()), serve_body_timeout=0.3) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(served.url.rpartition(":")[2]))
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{")
        answer = await asyncio.wait_for(reader.read(), WAIT)
        writer.close()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"body_timeout"' in answer


async def test_paths_and_methods_that_are_not():
    async with serving(Parrot(config())) as served, aiohttp.ClientSession() as session:
        async with session.get(f"{served.url}/v1/nothing") as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (404, "not_found")
        async with session.get(f"{served.url}/v1/chat/completions") as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, "POST")
        async with session.post(f"{served.url}/%2e%2e/%00", data=b"x") as answer:
            assert answer.status == 404
