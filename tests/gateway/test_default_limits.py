"""What a limit that a client does not give means in each dialect, and what an unlimited response costs its client."""

from __future__ import annotations

import pytest

from tests.gateway.apis.ollama.client import send
from tests.gateway.middleware.test_token_cost import left
from tests.gateway.serving import Parrot, config, post, serving, vllm
from tests.servers.openai_stub import StubServer

HI = [{"role": "user", "content": "Hi"}]
CONTEXT = 2048
"""Of the test server: all that fits, to the engine."""
ROUTES = {
    "/v1/chat/completions": ({"messages": HI}, "max_completion_tokens", CONTEXT),
    "/v1/responses": ({"input": "Hi"}, "max_output_tokens", CONTEXT),
    "/v1/completions": ({"prompt": "Hi"}, "max_tokens", 16),
    "/api/chat": ({"messages": HI}, None, CONTEXT),
    "/api/generate": ({"prompt": "Hi"}, None, CONTEXT),
}


@pytest.mark.parametrize("path", ROUTES)
async def test_a_limit_that_is_not_given(path: str):
    fields, name, limit = ROUTES[path]
    async with StubServer() as engine, serving(vllm(engine)) as served:
        for body in (fields, fields | {name: None}, fields | {"stream": True}) if name else (fields,):
            status, headers, _ = await send(served, path, {"model": "m", **body})
            assert status == 200
            assert headers.get("X-Miner-Ignored-Params") is None
    assert {body["max_tokens"] for body in engine.bodies} == {limit}


@pytest.mark.parametrize("path", [path for path in ROUTES if path.startswith("/v1")])
async def test_minus_one_is_unlimited_on_openais_routes(path: str):
    fields, name, _ = ROUTES[path]
    async with StubServer() as engine, serving(vllm(engine)) as served:
        for field in {name, "max_output_tokens" if path == "/v1/responses" else "max_tokens"}:
            assert (await send(served, path, {"model": "m", **fields, field: -1}))[0] == 200
            status, _, (said,) = await send(served, path, {"model": "m", **fields, field: -2})
            assert (status, said["error"]["param"]) == (400, field)
    assert {body["max_tokens"] for body in engine.bodies} == {CONTEXT}


async def test_anthropics_limit_is_required_and_positive():
    async with StubServer() as engine, serving(vllm(engine)) as served:
        for number in (-1, 0):
            body = {"model": "m", "messages": HI, "max_tokens": number}
            status, _, (said,) = await send(served, "/v1/messages", body)
            assert status == 400
            assert f"max_tokens must be an integer of at least 1, not {number}." in said["error"]["message"]
            assert "-1 " not in said["error"]["message"].replace("not -1.", "")
    assert engine.bodies == []


async def test_an_unlimited_response_reserves_the_default_and_pays_what_it_used():
    async with serving(Parrot(config(default_max_tokens=50)), rate_limit_tokens=1000) as served:
        for body in ({"model": "m", "messages": HI}, {"model": "m", "messages": HI, "max_tokens": -1}):
            async with post(served, body) as response:
                assert response.status == 200
                await response.read()
        assert 900 < left(served) <= 1000
