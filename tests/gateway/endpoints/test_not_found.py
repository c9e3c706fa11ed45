"""Paths that are no route, and bytes that are no request: JSON in the dialect's shape, and where to go."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from tests.gateway.serving import Parrot, config, serving

WAIT = 60
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": False}
OPENAI, OLLAMA, ANTHROPIC = "/v1/models", "/api/tags", "/v1/messages"


async def said(served, data, after=b""):
    """Status, headers and body of the first response on a connection of its own, which the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(served.url.rpartition(":")[2]))
    writer.write(data)
    if after:
        await asyncio.sleep(0.1)
        writer.write(after)
    answer = await asyncio.wait_for(reader.read(), WAIT)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    return int(lines[0].split()[1]), headers, body


def assert_shape(path, status, headers, body):
    assert headers["content-type"] == "application/json"
    assert headers["server"] == "miner"
    assert headers["x-request-id"]
    told = json.loads(body)
    if path.startswith("/api"):
        assert set(told) == {"error"}
        assert isinstance(told["error"], str)
    elif path == ANTHROPIC:
        assert told["type"] == "error"
        assert {"type", "message"} <= set(told["error"])
    else:
        assert set(told["error"]) == {"message", "type", "param", "code"}
        assert told["error"]["type"] == ("server_error" if status >= 500 else "invalid_request_error")


@pytest.mark.parametrize("path", [OPENAI, OLLAMA, ANTHROPIC])
@pytest.mark.parametrize(
    ("head", "rest", "status"),
    [
        (b"GET %s HTTP/1.1\r\nHost: localhost\r\nX-Big: " + b"a" * 9000 + b"\r\n\r\n", b"", 431),
        (b"GET %s HTTP/1.1\r\nHost: localhost\r\n" + b"X" * 9000 + b": a\r\n\r\n", b"", 431),
        (b"GET %s HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 500 + b"\r\n", b"", 431),
        (b"GET %s HTTP/1.1\r\nHost: localhost\r\nX-Big: ", b"a" * 9000 + b"\r\n\r\n", 431),
        (b"GET %s?" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"", 414),
        (b"GET %s HTTP/9.9\r\nHost: localhost\r\n\r\n", b"", 400),
        (b"GET %s HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n", b"", 400),
        (b"GET %s HTTP/1.1\r\nHost: localhost\r\nA: \x00\r\n\r\n", b"", 400),
        (b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", b"", 400),
        (b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n", b"", 400),
        (b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"", 400),
        (b"GET %s HTTP/1.1\r\nHost: localhost\r\nExpect: tea\r\nConnection: close\r\n\r\n", b"", 417),
    ],
)
async def test_what_is_no_request_is_refused_in_the_shape_of_the_dialect(path, head, rest, status, caplog):
    async with serving(Parrot(config())) as served:
        found, headers, body = await said(served, head.replace(b"%s", path.encode()), rest)
    assert found == status
    assert_shape(path, status, headers, body)
    assert "aiohttp" not in str(headers) + body.decode()
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat", "/v1/messages"])
@pytest.mark.parametrize("chunks", [b"zz\r\n", b"5\r\nhello, and more\r\n"])
async def test_a_body_whose_chunks_are_wrong(path, chunks, caplog):
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    async with serving(Parrot(config())) as served:
        for data in ((head + chunks,), (head, chunks)):
            status, headers, body = await said(served, *data)
            assert status == 400
            body = body.partition(b"HTTP/1.1")[0]
            assert_shape(
                "/api" if path.startswith("/api") else "/v1/messages" if "messages" in path else path,
                400,
                headers,
                body,
            )
    assert "Traceback" not in caplog.text


async def test_https_at_this_port_is_reported():
    async with serving(Parrot(config())) as served:
        status, _, body = await said(served, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    assert status == 400
    assert "http://" in json.loads(body)["error"]["message"]


async def test_a_client_that_waits_for_100_continue_gets_it():
    async with serving(Parrot(config())) as served, aiohttp.ClientSession() as session:
        for body in (CHAT, {**CHAT, "stream": True}):
            url = f"{served.url}/v1/chat/completions"
            async with session.post(url, json=body, expect100=True, timeout=aiohttp.ClientTimeout(WAIT)) as answer:
                assert answer.status == 200
                assert "You said" in await answer.text()


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("//api/tags", "/api/tags"), ("/v1/models/", "/v1/models"), ("/v1//models", "/v1/models"),
        ("///v1///models///", "/v1/models"), ("//", "/"), ("/api/tags/?a=b%20c", "/api/tags?a=b%20c"),
        ("//v1/models/a%2Fb", "/v1/models/a%2Fb"), ("/readyz/", "/readyz"),
    ],
)  # fmt: skip
async def test_a_path_that_is_only_written_otherwise_is_redirected(path, right):
    async with serving(Parrot(config(default_model="a/b"))) as served:
        status, headers, _ = await said(
            served, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
    assert status == 308
    assert headers["location"] == right


@pytest.mark.parametrize("path", ["//v1/chat/completions", "/v1/chat/completions/", "/api//chat", "//v1/messages/"])
async def test_a_post_keeps_its_method_and_its_body(path):
    from yarl import URL

    async with serving(Parrot(config())) as served, aiohttp.ClientSession() as session:
        url = URL(served.url + path, encoded=True)
        body = CHAT if "api" in path else {**CHAT, "max_tokens": 512}
        async with session.post(url, json=body) as answer:
            assert answer.status == 200
            assert "You said" in await answer.text()


@pytest.mark.parametrize("path", ["//evil.example/", "//evil.example/v1/models", "/nowhere/", "//nowhere"])
async def test_nothing_else_is_redirected(path):
    async with serving(Parrot(config())) as served:
        status, headers, _ = await said(
            served, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
    assert status == 404
    assert "location" not in headers


@pytest.mark.parametrize(
    ("path", "way"),
    [
        ("/healthz", "GET /readyz"), ("/model", "GET /v1/models"),
        ("/v1", "GET /v1/models"), ("/v1/", "GET /v1/models"), ("/api", "GET /api/tags"),
        ("/v1/v1/chat/completions", "POST /v1/chat/completions"), ("/count_tokens", "messages/count_tokens"),
        ("/v1/api/tags", "GET /api/tags"), ("/generate", "POST /v1/completions"),
        ("/version", "GET /api/version"), ("/nothing/like/it", "/openapi.json"),
    ],
)  # fmt: skip
async def test_a_404_names_the_right_route(path, way):
    async with (
        serving(Parrot(config())) as served,
        aiohttp.ClientSession() as session,
        session.get(served.url + path) as answer,
    ):
        assert answer.status == 404
        assert way in await answer.text()


async def test_without_a_key_nothing_is_revealed():
    async with serving(Parrot(config()), api_keys="0123456789abcdef") as served, aiohttp.ClientSession() as session:
        for path in ("/healthz", "/v1/models/", "//api/tags"):
            async with session.get(served.url + path, allow_redirects=False) as answer:
                assert answer.status == 401
