"""`rerank`: what is sent, what comes back in which order, who refuses; llama.cpp on a real engine."""

from __future__ import annotations

import pytest

from miner.core.llms import get_backend
from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.core.llms.LLMService import LLMService
from miner.core.wire import RerankResponse, RerankResult, TokenUsage
from miner.errors import (
    BackendProtocolError,
    BackendUnavailableError,
    ContextLengthError,
    InvalidRequestError,
    UnsupportedFeatureError,
)
from tests.core.services import settings, speaking_to
from tests.servers.openai_stub import StubServer

DOCUMENTS = ["Bananas are yellow.", "Paris is the capital of France.", "Cats sleep."]


def scored(*scores):
    """A vLLM's answer, best first: pairs of index and score."""
    results = [{"index": at, "document": {"text": DOCUMENTS[at]}, "relevance_score": score} for at, score in scores]
    return {"id": "score-1", "model": "m", "results": results, "usage": {"prompt_tokens": 19, "total_tokens": 19}}


async def test_the_exact_body_and_the_best_first():
    async with StubServer(reply=scored((2, 0.1), (1, 0.9), (0, 0.5))) as server, speaking_to("vllm", server) as service:
        answer = await service.rerank("capital?", DOCUMENTS)
        assert [(one.index, one.relevance_score) for one in answer.results] == [(1, 0.9), (0, 0.5), (2, 0.1)]
        assert [one.document for one in answer.results] == [DOCUMENTS[1], DOCUMENTS[0], DOCUMENTS[2]]
        assert (answer.model, answer.usage) == ("m", TokenUsage(19, 0, 19))
        assert server.bodies == [{"model": "m", "query": "capital?", "documents": DOCUMENTS}]
        assert server.generations[0].path == "/v1/rerank"
        server.reply = scored((1, 0.9))
        answer = await service.rerank("capital?", DOCUMENTS, model="m", top_n=1)
        assert [one.index for one in answer.results] == [1]
        assert server.bodies[-1]["top_n"] == 1


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"query": ""}, "query"), ({"documents": []}, "documents"), ({"documents": "one"}, "documents"),
        ({"documents": ["a", ""]}, "documents"), ({"top_n": 0}, "top_n"), ({"top_n": True}, "top_n"),
    ],
)  # fmt: skip
async def test_wrong_arguments_are_refused_by_name(given, param):
    async with StubServer() as server, speaking_to("vllm", server) as service:
        with pytest.raises(InvalidRequestError) as caught:
            await service.rerank(**{"query": "q", "documents": ["a"], **given})
        assert caught.value.param == param
        assert server.bodies == []


@pytest.mark.parametrize("answer", [scored((1, 0.9)), scored((0, 1.0), (0, 0.5), (1, 0.2)), {"results": 7}, {}])
async def test_an_answer_that_is_none(answer):
    async with StubServer(reply=answer) as server, speaking_to("vllm", server) as service:
        with pytest.raises(BackendProtocolError, match="scores"):
            await service.rerank("q", DOCUMENTS)


async def test_who_cannot_says_so():
    async with StubServer() as server:
        async with speaking_to("ollama", server) as service:
            with pytest.raises(UnsupportedFeatureError, match="ollama does not rerank") as caught:
                await service.rerank("q", DOCUMENTS)
            assert caught.value.param == "rerank"
        async with LlamaCppService(settings()) as service:
            with pytest.raises(UnsupportedFeatureError, match="'demo' does not support rerank") as caught:
                await service.rerank("q", DOCUMENTS)
            assert caught.value.param == "model"
            assert (await service.health()).engines == []  # known without a load
        assert server.requests == []


@pytest.mark.parametrize(
    ("routes", "able"),
    [
        ({"chat/completions": 405}, {"chat"}),
        ({"embeddings": 405, "rerank": 405}, {"embeddings", "rerank"}),
        ({"rerank": 405}, {"rerank"}),
        ({"embeddings": 405}, {"embeddings"}),
        ({}, {"chat", "embeddings", "rerank"}),
    ],
)
async def test_what_a_vllm_server_can_is_known_beforehand(routes, able):
    """The routes of vLLM 0.32 by what the server runs; a GET of one that is there is refused with 405."""
    side = {f"/v1/{path}": (status, {"detail": "Method Not Allowed"}) for path, status in routes.items()}
    async with StubServer(side=side) as server, speaking_to("vllm", server) as service:
        [model] = await service.list_models()
        assert {"chat", "embeddings", "rerank"} & model.capabilities == able
        if "rerank" not in able:
            with pytest.raises(UnsupportedFeatureError, match="does not support rerank"):
                await service.rerank("q", DOCUMENTS)


async def test_a_document_that_is_too_long_is_refused():
    text = (
        "This model's maximum context length is 2048 tokens. However, your prompt contains at least 2049 input tokens"
    )
    refused = (400, {"error": {"message": text, "type": "BadRequestError", "param": "input_tokens", "code": 400}})
    async with StubServer(reply=refused) as server, speaking_to("vllm", server) as service:
        with pytest.raises(ContextLengthError) as caught:
            await service.rerank("q", DOCUMENTS)
        assert (caught.value.context_length, caught.value.prompt_tokens) == (2048, 2049)


@pytest.mark.engine
async def test_a_real_llamacpp_engine_ranks():
    """The demo model has no head for it, so its scores mean nothing: it is the way there and back that counts."""
    given = {"llamacpp_threads": 1, "llamacpp_parallel": 2, "llamacpp_ctx_size": 256, "llamacpp_pooling": "rank"}
    async with LlamaCppService(settings(**given)) as service:
        [model] = [model for model in await service.list_models() if model.id == "demo"]
        assert {"rerank", "embeddings"} & model.capabilities == {"rerank"}
        answer = await service.rerank("What is the capital of France?", DOCUMENTS)
        scores = [one.relevance_score for one in answer.results]
        assert scores == sorted(scores, reverse=True)
        assert sorted(one.index for one in answer.results) == [0, 1, 2]
        assert answer.usage.prompt_tokens > 10
        best = await service.rerank("What is the capital of France?", DOCUMENTS, top_n=1)
        assert best.results[0].index == answer.results[0].index
        with pytest.raises(ContextLengthError):
            await service.rerank("q", ["word " * 600])


class Counting(LLMService):
    """A third party's backend: it says that it can, and overrides one hook."""

    @property
    def capabilities(self):
        return super().capabilities | {"rerank"}

    async def generate(self, prompt, model=None):
        return ""

    async def _rerank(self, query, documents, model, top_n):
        scores = [RerankResult(place, float(text.count(query))) for place, text in enumerate(documents)]
        return RerankResponse(results=scores, model=model)


async def test_a_generate_only_backend_can_rank():
    answer = await Counting(settings()).rerank("a", ["b", "aa", "a"], top_n=2)
    assert [(one.index, one.document) for one in answer.results] == [(1, "aa"), (2, "a")]


async def test_behind_each_other_the_first_that_can_and_is_there_ranks():
    async with StubServer(reply=scored((0, 0.5), (1, 0.9), (2, 0.1))) as server:
        config = settings(llm_fallbacks="vllm", vllm_api_base=server.v1, ollama_base_url="http://127.0.0.1:9")
        async with get_backend("ollama", config) as service:
            answer = await service.rerank("q", DOCUMENTS, top_n=1)
            assert [one.index for one in answer.results] == [1]
        config = settings(llm_fallbacks="ollama", vllm_api_base="http://127.0.0.1:9/v1", ollama_base_url=server.url)
        async with get_backend("vllm", config) as service:
            with pytest.raises(BackendUnavailableError, match="vllm at"):  # it could, were it there
                await service.rerank("q", DOCUMENTS)
