"""Errors are the official `anthropic` package's own classes."""

from __future__ import annotations

import json

import anthropic
import pytest
from anthropic import AsyncAnthropic

from tests.gateway.apis.anthropic.client import KEY, USER, client
from tests.gateway.serving import Parrot, config, post, serving, vllm
from tests.servers import faults
from tests.servers.openai_stub import StubServer

LONG = {"message": "maximum context length is 2048 tokens. However, your prompt has 3000", "code": 400}


@pytest.mark.parametrize(
    ("reply", "model", "error", "kind", "code"),
    [
        ("Hi.", "no", anthropic.NotFoundError, "not_found_error", "model_not_found"),
        ((400, {"error": LONG}), "m", anthropic.BadRequestError, "invalid_request_error", "context_length_exceeded"),
        ((429, {"error": "busy"}), "m", anthropic.RateLimitError, "rate_limit_error", "overloaded"),
        (faults.status(503), "m", anthropic.ServiceUnavailableError, "api_error", "backend_unavailable"),
        (faults.garbage_http(), "m", anthropic.InternalServerError, "api_error", None),
    ],
    ids=["model", "context", "overloaded", "unavailable", "garbage"],
)
async def test_errors_are_mapped_to_the_packages_own(reply, model, error, kind, code):
    async with StubServer(reply=reply) as engine, serving(vllm(engine)) as served, client(served) as api:
        for stream in (False, True):
            with pytest.raises(error) as caught:
                await api.messages.create(model=model, max_tokens=9, messages=USER, stream=stream)
            assert caught.value.type == kind
            assert caught.value.body["type"] == "error"
            assert code in (None, caught.value.error_code)
            assert engine.url not in caught.value.api_message


async def test_a_prompt_that_is_too_long_says_so():
    reply = (400, {"error": LONG})
    async with StubServer(reply=reply) as engine, serving(vllm(engine)) as served, client(served) as api:
        with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
            await api.messages.create(model="m", max_tokens=9, messages=USER)


async def test_keys_and_paths():
    async with serving(Parrot(config()), api_keys=KEY) as served:
        async with AsyncAnthropic(base_url=served.url, api_key="another-key-of-no-use", max_retries=0) as api:
            with pytest.raises(anthropic.AuthenticationError) as caught:
                await api.messages.create(model="any", max_tokens=5, messages=USER)
        async with client(served) as api:
            message = await api.messages.create(model="any", max_tokens=5, messages=USER)
            with pytest.raises(anthropic.NotFoundError) as missing:
                await api.get("/v1/messages/nowhere", cast_to=object)
            with pytest.raises(anthropic.APIStatusError) as wrong:
                await api.get("/v1/messages", cast_to=object)
    assert caught.value.type == "authentication_error"
    assert message.content[0].text.startswith("You said")
    assert missing.value.type == "not_found_error"
    assert wrong.value.status_code == 405
    assert wrong.value.body["type"] == "error"


async def test_the_id_of_a_request_is_where_anthropics_clients_look_for_it():
    async with StubServer(reply=faults.reset(["Hel"])) as engine, serving(vllm(engine), api_keys=KEY) as served:
        async with client(served) as api:
            with pytest.raises(anthropic.NotFoundError) as caught:
                await api.messages.create(model="none", max_tokens=5, messages=USER)
        unknown = caught.value
        async with post(served, {}, "/v1/messages/nowhere", headers={"x-request-id": "mine"}) as answer:
            refused = await answer.json()
            assert answer.headers["request-id"] == answer.headers["x-request-id"] == "mine"
        body = {"model": "m", "max_tokens": 5, "messages": USER, "stream": True}
        async with post(served, body, "/v1/messages", headers={"x-api-key": KEY}) as answer:
            events = await answer.text()
            named = answer.headers["request-id"]
        async with post(served, {}, "/v1/chat/completions") as answer:
            assert "request-id" not in answer.headers
        engine.reply = "Hello."
        async with client(served) as api:
            message = await api.messages.create(model="m", max_tokens=5, messages=USER)
    assert unknown.request_id == unknown.body["request_id"] == unknown.response.headers["x-request-id"]
    assert refused["request_id"] == "mine"
    assert json.loads(events.strip().rpartition("data: ")[2])["request_id"] == named
    assert message._request_id
