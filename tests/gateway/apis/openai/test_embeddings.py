"""Embeddings with the official `openai` package."""

from __future__ import annotations

import math

import openai
import pytest

from tests.gateway.apis.openai.client import client
from tests.gateway.serving import serving, vllm
from tests.servers.openai_stub import StubServer


async def test_embeddings_in_both_encodings():
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        packed = await api.embeddings.create(model="m", input=["one", "three"])
        plain = await api.embeddings.create(model="m", input="one", encoding_format="float")
        same = await api.embeddings.create(model="m", input="one", dimensions=3)
        with pytest.raises(openai.BadRequestError) as caught:
            await api.embeddings.create(model="m", input="one", dimensions=2)
    assert [list(item.embedding) for item in packed.data] == [[3.0, 1.0, 0.0], [5.0, 1.0, 0.0]]
    assert plain.data[0].embedding == [3.0, 1.0, 0.0]
    assert math.isclose(same.data[0].embedding[0], 3.0)
    assert caught.value.param == "dimensions"
