"""The list of models, and one of them."""

from __future__ import annotations

import openai
import pytest

from tests.gateway.apis.openai.client import client
from tests.gateway.serving import serving, vllm
from tests.servers.openai_stub import StubServer


async def test_models_the_default_first():
    async with (
        StubServer(models=["a", "org/b"]) as engine,
        serving(vllm(engine, default_model="org/b")) as served,
        client(served) as api,
    ):
        listed = [model.id async for model in api.models.list()]
        one = await api.models.retrieve("org/b")
        with pytest.raises(openai.NotFoundError) as caught:
            await api.models.retrieve("c")
    assert listed == ["org/b", "a"]
    assert one.id == "org/b"
    assert one.max_model_len == 2048
    assert caught.value.code == "model_not_found"
