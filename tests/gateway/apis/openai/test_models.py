"""The list of models, and one of them."""

from __future__ import annotations

import openai
import pytest

from miner.core.wire import ModelInfo
from miner.errors import ModelNotFoundError
from tests.gateway.apis.openai.client import client
from tests.gateway.serving import Parrot, config, serving, vllm
from tests.servers.openai_stub import StubServer


async def test_models_the_default_first():
    async with (
        StubServer(models=["a", "org/b"]) as engine,
        serving(vllm(engine, default_model="org/b")) as served,
        client(served) as api,
    ):
        models = [model async for model in api.models.list()]
        one = await api.models.retrieve("org/b")
        with pytest.raises(openai.NotFoundError) as caught:
            await api.models.retrieve("c")
    assert [model.id for model in models] == ["org/b", "a"]
    assert [getattr(model, "default", None) for model in models] == [True, None]
    assert one.id == "org/b"
    assert one.max_model_len == 2048
    assert caught.value.code == "model_not_found"


async def test_the_model_of_requests_that_name_none_is_the_default_without_a_setting_too():
    class Two(Parrot):
        async def list_models(self):
            return [ModelInfo(id="a"), ModelInfo(id="b", aliases=["B-Q8"])]

        async def _sole_model(self):
            return "b"

    class None_(Two):
        async def _sole_model(self):
            raise ModelNotFoundError("There are several models and none was named.", available=["a", "b"])

    for service, wanted in ((Two, ["b"]), (None_, [])):
        async with serving(service(config(default_model=None))) as served, client(served) as api:
            models = [model async for model in api.models.list()]
            assert [model.id for model in models if getattr(model, "default", None)] == wanted


async def test_every_name_is_listed_and_can_be_retrieved():
    class Named(Parrot):
        async def list_models(self):
            aliases = ["demo.gguf", "Demo:latest", "SmolLM2.Q4_1", "SmolLM2.Q4_1.gguf"]
            return [ModelInfo(id="demo", aliases=aliases), ModelInfo(id="other", created=5)]

    async with serving(Named(config(default_model="demo"))) as served, client(served) as api:
        listed = [model async for model in api.models.list()]
        assert [model.id for model in listed] == ["demo", "other", "SmolLM2.Q4_1"]
        assert listed[2].root == "demo"
        for name in ("demo", "Demo:latest", "SmolLM2.Q4_1.gguf"):
            assert (await api.models.retrieve(name)).id == name
            reply = await api.chat.completions.create(model=name, messages=[{"role": "user", "content": "hi"}])
            assert reply.choices[0].message.content
