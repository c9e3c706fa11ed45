"""The list of models for Anthropic's clients."""

from __future__ import annotations

from datetime import UTC, datetime

import aiohttp
import anthropic
import pytest
from anthropic.types.beta import BetaModelInfo

from miner.core.llms.llm_ollama import OllamaService
from tests.gateway.apis.anthropic.client import KEY, client
from tests.gateway.apis.anthropic.strict import strict
from tests.gateway.serving import Parrot, config, serving, vllm
from tests.servers.openai_stub import StubServer

HEADERS = {"anthropic-version": "2023-06-01", "x-api-key": KEY}


async def test_pages_and_one_of_them():
    names = [f"m{number:02}" for number in range(25)]
    async with StubServer(models=names) as engine, serving(vllm(engine)) as served, client(served) as api:
        everything = [model.id async for model in api.models.list()]
        first = await api.models.list(limit=10)
        second = await api.models.list(limit=10, after_id=first.last_id)
        before = await api.models.list(limit=5, before_id="m03")
        one = await api.beta.models.retrieve("m07")
        with pytest.raises(anthropic.NotFoundError) as caught:
            await api.models.retrieve("other")
        for wrong in ({"limit": 0}, {"limit": 1001}, {"after_id": "x"}, {"after_id": "m01", "before_id": "m02"}):
            with pytest.raises(anthropic.BadRequestError, match=list(wrong)[-1]):
                await api.models.list(**wrong)
        retired = await api.models.list(extra_query={"lifecycle[]": "retired"})
    assert everything == names
    assert ([model.id for model in first.data], first.has_more) == (names[:10], True)
    assert (second.first_id, second.last_id, second.has_more) == ("m10", "m19", True)
    assert ([model.id for model in before.data], before.has_more) == (["m00", "m01", "m02"], False)
    assert (one.id, one.max_input_tokens, one.max_tokens) == ("m07", 2048, 2048)
    assert caught.value.type == "not_found_error"
    assert caught.value.response.headers["request-id"]
    assert (retired.data, retired.first_id, retired.has_more) == ([], None, False)


@pytest.mark.parametrize(
    ("capabilities", "thinking", "images"),
    [(["completion", "thinking", "vision"], True, True), (["completion"], False, False)],
)
async def test_every_field_of_a_model(capabilities, thinking, images):
    async with (
        StubServer(models=["m"], capabilities=capabilities) as engine,
        serving(OllamaService(config(ollama_base_url=engine.url))) as served,
        aiohttp.ClientSession() as session,
        session.get(f"{served.v1}/models/m", headers=HEADERS) as response,
    ):
        model = strict(BetaModelInfo, await response.read())
    assert model.created_at > datetime(2020, 1, 1, tzinfo=UTC)
    assert model.capabilities.thinking.supported == model.capabilities.effort.max.supported == thinking
    assert model.capabilities.image_input.supported == images


async def test_errors_are_in_the_form_of_the_client():
    async with serving(Parrot(config()), api_keys=KEY) as served:
        async with client(served).with_options(api_key="another-key-of-no-use") as api:
            with pytest.raises(anthropic.AuthenticationError) as caught:
                await api.models.list()
        async with aiohttp.ClientSession() as session, session.get(f"{served.v1}/models") as response:
            assert response.status == 401
            assert "type" not in await response.json()
    assert caught.value.type == "authentication_error"
    assert caught.value.body["request_id"] == caught.value.response.headers["request-id"]


async def test_other_clients_get_openais_form():
    async with serving(Parrot(config(default_model="parrot"))) as served, aiohttp.ClientSession() as session:
        for headers, anthropics in (
            ({}, False), ({"Authorization": f"Bearer {KEY}"}, False), ({"x-api-key": KEY}, True),
            ({"anthropic-version": "2023-06-01", "Authorization": f"Bearer {KEY}"}, True),
        ):  # fmt: skip
            async with session.get(f"{served.v1}/models", headers=headers) as response:
                body = await response.json()
            assert ("has_more" in body) == anthropics
            assert ("object" in body) == (not anthropics)
