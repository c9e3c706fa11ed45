"""Errors are the official `openai` package's own classes."""

from __future__ import annotations

import openai
import pytest
from openai import AsyncOpenAI

from tests.gateway.apis.openai.client import KEY, USER, client
from tests.gateway.serving import serving, vllm
from tests.servers import faults
from tests.servers.openai_stub import StubServer

TOO_LONG = "This model's maximum context length is 10 tokens. However, your prompt contains at least 11 input tokens"


async def test_errors_become_the_clients_own_classes():
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:

        async def ask():
            await api.chat.completions.create(model="m", messages=USER)

        with pytest.raises(openai.NotFoundError) as missing:
            await api.chat.completions.create(model="other", messages=USER)
        engine.reply = faults.status(429, {"error": {"message": "slow down"}}, Retry_After="7")
        with pytest.raises(openai.RateLimitError) as busy:
            await ask()
        engine.reply = (400, {"error": {"message": TOO_LONG, "param": "input_tokens"}})
        with pytest.raises(openai.BadRequestError) as long:
            await ask()
        engine.reply = faults.reset()
        with pytest.raises(openai.InternalServerError) as down:
            await ask()
        with pytest.raises(openai.NotFoundError):
            await api.post("/nothing/here", body={}, cast_to=object)
    assert missing.value.code == "model_not_found"
    assert "127.0.0.1" not in missing.value.message
    assert busy.value.response.headers["retry-after"] == "7"
    assert long.value.code == "context_length_exceeded"
    assert down.value.status_code in (502, 503)
    assert str(engine.port) not in down.value.message


async def test_keys():
    async with StubServer() as engine, serving(vllm(engine), api_keys=f"{KEY},another-key-0123") as served:
        async with client(served) as api:
            assert [model.id async for model in api.models.list()] == ["m"]
        async with AsyncOpenAI(base_url=served.v1, api_key="wrong" * 5, max_retries=0) as stranger:
            with pytest.raises(openai.AuthenticationError) as caught:
                await stranger.models.list()
    assert caught.value.code == "invalid_api_key"
