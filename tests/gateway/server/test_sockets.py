"""Sockets that mean no good: 10,000 idle ones, slow heads and bodies, halves, and those that never read."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import time

import aiohttp
import psutil
import pytest

from miner.gateway.app import ROUTES
from tests.gateway.middleware.test_rate_limit import Gated, until
from tests.gateway.server.test_run import miner_serve
from tests.gateway.serving import Parrot, config, post, serving
from tests.servers.openai_stub import StubServer

WAIT = 60
IDLE = 10_000
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
CHAT = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "model": "m"}).encode()


def port(served):
    return int(served.url.rpartition(":")[2])


async def trickled(served, head, piece, pause=0.05):
    """The answer to a client that sends its request in endless pieces, and seconds until the connection was closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port(served))
    began = time.monotonic()
    writer.write(head)

    async def feed():
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    feeding = asyncio.create_task(feed())
    data = b""
    try:
        async with asyncio.timeout(WAIT):
            while piece := await reader.read(65536):
                data += piece
    except ConnectionError:
        pass
    feeding.cancel()
    await asyncio.gather(feeding, return_exceptions=True)
    writer.close()
    return data, time.monotonic() - began


@pytest.mark.process
async def test_ten_thousand_idle_connections(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else 4 * IDLE
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(most, 2 * IDLE)), hard))
    count = min(IDLE, most - 1000)
    assert count >= 1000, f"this system allows {hard} open files"
    idle = []
    async with (
        StubServer() as engine,
        miner_serve(
            "--port", "0", "--log", "off", tmp_path=tmp_path, VLLM_API_BASE=engine.v1, MINER_SERVE_KEEPALIVE="600",
            MINER_SERVE_PRELOAD="false",
        ) as server,
    ):  # fmt: skip
        await server.until_serving()
        process = psutil.Process(server.process.pid)
        try:
            for _ in range(20):
                async with post(server, CHAT) as answer:
                    assert answer.status == 200
            before, files = process.memory_info().rss, process.num_fds()
            for number in range(count):
                one = socket.create_connection(("127.0.0.1", port(server)), timeout=WAIT)
                idle.append(one)
                if number % 2:
                    one.send(POST)  # half a head
                if not number % 100:
                    await asyncio.sleep(0)
            async with asyncio.timeout(WAIT):
                while process.num_fds() < count:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            async with post(server, CHAT) as answer:
                assert answer.status == 200
            assert process.memory_info().rss - before < count * 20_000
            for one in idle:
                one.close()
            async with asyncio.timeout(WAIT):
                while process.num_fds() > files + 20:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            async with post(server, CHAT) as answer:
                assert answer.status == 200
        finally:
            for one in idle:
                one.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_the_server_closes_idle_connections():
    async with serving(Parrot(config()), serve_keepalive=1.0) as served:
        idle = [await asyncio.open_connection("127.0.0.1", port(served)) for _ in range(500)]
        for number, (_, writer) in enumerate(idle):
            if number % 2:
                writer.write(POST)  # half a head
        ends = await asyncio.wait_for(asyncio.gather(*(reader.read() for reader, _ in idle)), WAIT)
        assert set(ends) == {b""}
        for _, writer in idle:
            writer.close()
        async with post(served, CHAT) as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"", b"\r\n"),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\n", b"A: b\r\n"),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\nGET /livez HTTP/1.1\r\nHost: localhost\r\nX-A: ", b"a"),
    ],
)
async def test_a_head_that_comes_for_ever_is_cut_off(head, piece):
    async with serving(Parrot(config()), serve_keepalive=1.0) as served:
        _, seconds = await trickled(served, head, piece)
        assert seconds < 20
        assert not served.gateway.requests


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (POST + b"Content-Length: 100000\r\n\r\n", b" "),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n ", b""),
    ],
)
async def test_a_body_below_the_limit_that_never_ends_is_408(head, piece):
    service = Parrot(config())
    async with serving(service, serve_body_timeout=0.5) as served:
        answer, seconds = await trickled(served, head, piece)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert seconds < 20
    assert not hasattr(service, "asked")


async def test_a_body_that_grows_beyond_the_limit_is_413_long_before_its_end():
    async with serving(Parrot(config()), serve_max_body=100_000) as served:
        head = POST + b"Transfer-Encoding: chunked\r\n\r\n"
        answer, _ = await trickled(served, head, b"4000\r\n" + b" " * 0x4000 + b"\r\n", pause=0)
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_an_unread_body_is_not_awaited():
    async with serving(Parrot(config()), api_keys="0123456789abcdef", serve_body_timeout=60) as served:
        answer, seconds = await trickled(served, POST + b"Content-Length: 100000\r\n\r\n", b" ")
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert seconds < 20


async def test_half_a_body_and_then_half_a_connection():
    service = Parrot(config())
    async with serving(service) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", port(served))
        writer.write(POST + b"Content-Length: %d\r\n\r\n" % len(CHAT) + CHAT[:-5])
        await until(lambda: served.gateway.requests)
        writer.write_eof()
        await asyncio.wait_for(reader.read(), WAIT)
        await until(lambda: not served.gateway.requests)
        writer.close()
    assert not hasattr(service, "asked")


async def test_half_a_connection_leaves_the_queue():
    service = Gated(config())
    async with serving(service, serve_max_running=1) as served:
        first = asyncio.create_task(whole(served))
        await until(lambda: service.running == 1)
        _, writer = await asyncio.open_connection("127.0.0.1", port(served))
        writer.write(POST + b"Content-Length: %d\r\n\r\n" % len(CHAT) + CHAT)
        permits = served.gateway.queue.permits
        await until(lambda: permits.waiting == 1)
        writer.write_eof()
        await until(lambda: permits.waiting == 0)
        writer.close()
        service.go.release()
        assert await first == 200


async def whole(served):
    async with post(served, CHAT) as answer:
        await answer.read()
        return answer.status


@pytest.mark.process
async def test_who_never_reads_its_answers_is_cut_off(tmp_path):
    """Answers in one piece too: pipelined until all buffers between are full."""
    async with miner_serve(
        "--port", "0", "--log", "off", tmp_path=tmp_path, MINER_SERVE_PRELOAD="false", MINER_SERVE_WRITE_TIMEOUT="1"
    ) as server:
        await server.until_serving()
        process = psutil.Process(server.process.pid)
        before = process.memory_info().rss
        with socket.create_connection(("127.0.0.1", port(server))) as one:
            one.setblocking(False)
            async with asyncio.timeout(WAIT):
                while True:
                    try:
                        one.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
                    except BlockingIOError:
                        await asyncio.sleep(0.05)
                    except ConnectionError:
                        break
            assert process.memory_info().rss - before < 20_000_000
        async with aiohttp.ClientSession() as session, session.get(f"{server.url}/livez") as answer:
            assert answer.status == 200


DEEP = [b"[" * 100_000, b'{"a":' * 100_000, b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"]


@pytest.mark.parametrize(
    "path", sorted({route.path for route in ROUTES if route.body is not None and route.method == "POST"})
)
async def test_deep_json_is_400_on_every_route_that_reads_some(path):
    async with serving(Parrot(config(default_model="m"))) as served:
        for body in DEEP:
            async with post(served, body, path.replace("{model:.+}", "m")) as answer:
                assert answer.status == 400
                assert "error" in await answer.json()


FREE = [
    ("/v1/chat/completions", {"tools": [{"type": "function", "function": {"name": "f", "parameters": ...}}]}),
    ("/v1/chat/completions", {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": ...}}}),
    ("/v1/responses", {"tools": [{"type": "function", "name": "f", "parameters": ...}]}),
    ("/api/chat", {"format": ...}),
    ("/v1/messages", {"max_tokens": 5, "tools": [{"name": "f", "input_schema": ...}]}),
]


@pytest.mark.parametrize(("path", "fields"), FREE)
@pytest.mark.parametrize("kind", ["deep", "wide"])
async def test_schemas_and_tools_are_bounded(path, fields, kind):
    schema = '{"type":"object"}'
    if kind == "deep":
        schema = '{"type":"object","properties":{"a":' * 200 + schema + "}}" * 200
    else:
        schema = '{"enum":[' + "1," * 200_000 + "1]}"
    asked = {"input": "Hi"} if path == "/v1/responses" else {"messages": [{"role": "user", "content": "Hi"}]}
    text = json.dumps({"model": "m", **asked, **fields}, default=lambda _: "HERE").replace('"HERE"', schema)
    async with serving(Parrot(config())) as served, post(served, text.encode(), path) as answer:
        told = await answer.text()
    assert answer.status == 400
    assert "nested more than" in told if kind == "deep" else "holds more than" in told
