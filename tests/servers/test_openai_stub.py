"""The scriptable server answers as it is told and shows what it was sent."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from tests.servers import faults
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import delta, finish

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


async def post(server: StubServer, path: str, body: Any, **headers: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(server.url + path, json=body, headers=headers) as response,
    ):
        return response.status, await response.text()


@pytest.mark.parametrize(
    ("path", "body", "marks"),
    [
        ("/v1/chat/completions", CHAT, ['"content": "Good day."', '"finish_reason": "stop"', '"usage"']),
        ("/v1/chat/completions", CHAT | {"stream": True}, ['"content":"Good "', '"content":"day."', "data: [DONE]"]),
        ("/v1/completions", {"model": "m", "prompt": "x", "stream": True}, ['"text":"Good "', "data: [DONE]"]),
        ("/v1/completions", {"model": "m", "prompt": "x"}, ['"text": "Good day."']),
        ("/api/chat", CHAT, ['"content":"Good "', '"done":true']),
        ("/api/chat", CHAT | {"stream": False}, ['"content": "Good day."', '"eval_count": 8']),
        ("/api/generate", {"model": "m", "prompt": "x"}, ['"response":"Good "', '"done":true']),
    ],
)
async def test_a_text_is_told_in_the_dialect_that_was_asked(path: str, body: Any, marks: list[str]):
    async with StubServer(reply="Good day.") as server:
        status, text = await post(server, path, body)
    assert status == 200
    assert [mark for mark in marks if mark not in text] == []
    assert server.bodies == [body]


async def test_replies_of_every_kind_computed_from_the_body():
    replies: list[Any] = [
        {"a": 1},
        (503, {"error": "busy"}),
        [delta(content="x"), b": ping\n\n", finish()],
        faults.status(418),
    ]

    async def reply(body: dict[str, Any]) -> Any:
        await asyncio.sleep(0)
        assert body["model"] == "m"
        return replies.pop(0)

    async with StubServer(reply=reply) as server:
        got = [await post(server, "/v1/chat/completions", CHAT) for _ in range(4)]
    assert got[0] == (200, '{"a": 1}')
    assert got[1] == (503, '{"error": "busy"}')
    assert ": ping\n\n" in got[2][1]
    assert got[2][1].endswith("data: [DONE]\n\n")
    assert got[3][0] == 418


async def test_a_false_assertion_in_a_reply_fails_the_test():
    def reply(body: dict[str, Any]) -> Any:
        assert body["model"] == "other", "the wrong model"

    async def ask() -> None:
        async with StubServer(reply=reply) as server:
            await post(server, "/v1/chat/completions", CHAT)

    with pytest.raises(AssertionError, match="the wrong model"):
        await ask()


async def test_models_keys_counts_and_vectors():
    async with StubServer(
        ["m", "n"], max_model_len=99, api_key="k", side={"/metrics": "x 1", "/load": (501, {})}
    ) as server:
        assert (await post(server, "/v1/chat/completions", CHAT))[0] == 401
        assert (await post(server, "/v1/chat/completions", CHAT | {"model": "q"}, authorization="Bearer k"))[0] == 404
        assert (await post(server, "/api/chat", CHAT | {"model": "q"}))[1] == '{"error": "model \'q\' not found"}'
        assert '"count": 2' in (await post(server, "/tokenize", {"model": "m", "prompt": "a b"}))[1]
        assert "[[1.0, 1.0, 0.0]]" in (await post(server, "/api/embed", {"model": "m", "input": "a"}))[1]
        assert (await post(server, "/load", {}))[0] == 501
        async with aiohttp.ClientSession(headers={"authorization": "Bearer k"}) as session:
            async with session.get(server.v1 + "/models") as response:
                assert [(item["id"], item["max_model_len"]) for item in (await response.json())["data"]] == [
                    ("m", 99),
                    ("n", 99),
                ]
            async with session.get(server.v1 + "/nothing") as response:
                assert response.status == 404
        assert server.bodies == []


async def test_ollamas_file_is_checked():
    async def ask() -> None:
        async with StubServer() as server:
            await post(server, "/api/chat", CHAT | {"max_tokens": 3})

    with pytest.raises(AssertionError, match="max_tokens"):
        await ask()
