"""Embeddings with the official `openai` package."""

from __future__ import annotations

import math

import openai
import pytest

from tests.gateway.apis.openai.client import client
from tests.gateway.serving import serving, vllm
from tests.servers.openai_stub import StubServer


def sent_to(engine):
    return [request.json for request in engine.requests if request.path == "/v1/embeddings"]


async def test_embeddings_in_both_encodings():
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        packed = await api.embeddings.create(model="m", input=["one", "three"])
        plain = await api.embeddings.create(model="m", input="one", encoding_format="float")
        tokens = await api.embeddings.create(model="m", input=[5, 6])
        several = await api.embeddings.create(model="m", input=[[5, 6], [7]])
        assert [body["input"] for body in sent_to(engine)[-2:]] == [[[5, 6]], [[5, 6], [7]]]
        for wrong in ([], [[]], [1, "a"], [[1], "a"], [""], ["a", ""], [[1.5]], [-1], [[True]]):
            with pytest.raises(openai.BadRequestError) as refused:
                await api.embeddings.create(model="m", input=wrong)
            assert refused.value.param.startswith("input")
        same = await api.embeddings.create(model="m", input="one", dimensions=3)
        with pytest.raises(openai.BadRequestError) as caught:
            await api.embeddings.create(model="m", input="one", dimensions=4)
        assert sent_to(engine)[-1]["dimensions"] == 4
    assert [list(item.embedding) for item in packed.data] == [[3.0, 1.0, 0.0], [5.0, 1.0, 0.0]]
    assert (len(tokens.data), len(several.data)) == (1, 2)
    assert plain.data[0].embedding == [3.0, 1.0, 0.0]
    assert math.isclose(same.data[0].embedding[0], 3.0)
    assert caught.value.param == "dimensions"
