"""Embeddings with the official `openai` package."""

from __future__ import annotations

import math

import openai
import pytest

from miner.core.llms.llm_llamacpp import LlamaCppService
from tests.gateway.apis.openai.client import client
from tests.gateway.serving import config, serving, vllm
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


@pytest.mark.engine
async def test_tokens_and_dimensions_on_a_real_engine():
    service = LlamaCppService(config(default_model="demo", llamacpp_pooling="mean"))
    async with serving(service) as served, client(served) as api:
        tokens = await service.count_tokens("The sea is wide", raw=True)
        text = await api.embeddings.create(model="demo", input="The sea is wide")
        assert text.usage.prompt_tokens == tokens
        several = await api.embeddings.create(model="demo", input=[[504, 3942], [504], [3942, 504]])
        assert [item.index for item in several.data] == [0, 1, 2]
        one = await api.embeddings.create(model="demo", input=[504, 3942])
        assert one.usage.prompt_tokens == 2
        assert one.data[0].embedding == pytest.approx(several.data[0].embedding, abs=1e-3)
        short = await api.embeddings.create(model="demo", input=[504, 3942], dimensions=64)
        assert len(short.data[0].embedding) == 64
        assert sum(value * value for value in short.data[0].embedding) == pytest.approx(1)
        with pytest.raises(openai.BadRequestError) as unknown:
            await api.embeddings.create(model="demo", input=[9_999_999])
        assert unknown.value.param == "input"
        with pytest.raises(openai.BadRequestError) as more:
            await api.embeddings.create(model="demo", input="x", dimensions=9999)
        assert more.value.param == "dimensions"
