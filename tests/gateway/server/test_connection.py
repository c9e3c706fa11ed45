"""Clients that send half a head, half a connection, no HTTP at all, and thousands of idle ones."""

from __future__ import annotations

import asyncio
import json

import pytest

from miner.core.llms.LLMService import LLMService
from miner.core.wire import LLMChunk
from tests.gateway.serving import Parrot, alive, config, serving

WAIT = 30


def port(served):
    return int(served.url.rpartition(":")[2])


async def test_half_a_head_is_not_waited_for_for_ever():
    async with serving(Parrot(config()), serve_keepalive=0.5) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", port(served))
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-A")
        assert await asyncio.wait_for(reader.read(), WAIT) == b""
        writer.close()


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01 hello",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nA: \x00\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_no_http_gets_a_4xx_without_a_traceback(data, caplog):
    async with serving(Parrot(config())) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", port(served))
        writer.write(data)
        answer = await asyncio.wait_for(reader.read(), WAIT)
        writer.close()
        assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
        assert b"Traceback" not in answer
        assert await alive(served)
    assert "Traceback" not in caplog.text


async def test_a_client_that_closes_its_half_has_hung_up():
    closed = asyncio.Event()

    class Endless(LLMService):
        @property
        def capabilities(self):
            return frozenset({"chat"})

        async def _stream(self, request):
            try:
                while True:
                    yield [LLMChunk(content="x")]
                    await asyncio.sleep(0.01)
            finally:
                closed.set()

    async with serving(Endless(config(default_model="m"))) as served:
        body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "stream": True}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", port(served))
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        await asyncio.wait_for(reader.readuntil(b"x"), WAIT)
        writer.write_eof()
        await asyncio.wait_for(closed.wait(), WAIT)
        writer.close()


async def test_thousands_of_idle_connections():
    async with serving(Parrot(config())) as served:
        idle = [await asyncio.open_connection("127.0.0.1", port(served)) for _ in range(2000)]
        assert await alive(served)
        for _, writer in idle:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in idle))
        assert await alive(served)


@pytest.mark.parametrize(
    ("line", "status", "code", "shape"),
    [
        ("CONNECT example.com:443 HTTP/1.1", 405, "method_not_allowed", "openai"),
        ("CONNECT /v1/messages HTTP/1.1", 405, "method_not_allowed", "anthropic"),
        ("CONNECT /api/chat HTTP/1.1", 405, "method_not_allowed", "ollama"),
        ("GET /v1/models HTTP/2.0", 505, "http_version_not_supported", "openai"),
        ("GET /api/tags HTTP/2.0", 505, "http_version_not_supported", "ollama"),
        ("GET /v1/models HTTP/0.9", 505, "http_version_not_supported", "openai"),
    ],
)
async def test_what_no_route_can_take_is_refused_in_the_dialect(line, status, code, shape):
    async with serving(Parrot(config())) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", port(served))
        writer.write(f"{line}\r\nHost: localhost\r\n\r\n".encode())
        head, _, body = (await asyncio.wait_for(reader.read(), 60)).partition(b"\r\n\r\n")
        writer.close()
        await alive(served)
    assert head.split()[1] == str(status).encode()
    assert b"application/json" in head
    told = json.loads(body)
    if shape == "openai":
        assert told["error"]["code"] == code
    elif shape == "anthropic":
        assert told["type"] == "error"
    else:
        assert isinstance(told["error"], str)
