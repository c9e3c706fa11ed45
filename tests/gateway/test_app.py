"""Routes as a table: what is there, in what shape, and what the document says of it."""

from __future__ import annotations

import re

import aiohttp
import jsonschema
import pytest

from miner.core.llms.LLMService import LLMService
from miner.core.wire import ModelInfo, RerankResponse, RerankResult, TokenUsage
from miner.gateway.app import ROUTES
from miner.gateway.endpoints.openapi import document
from tests.gateway.serving import Parrot, config, post, serving

OPEN = ("/livez", "/health", "/v1/health")


def path_of(route):
    return re.sub(r"\{\w+(:[^}]*)?\}", "anything", route.path)


async def test_every_route_needs_a_key_but_livez_and_health():
    async with serving(Parrot(config()), api_keys="0123456789abcdef") as served, aiohttp.ClientSession() as session:
        for route in ROUTES:
            async with session.request(route.method, served.url + path_of(route), data=b"{}") as answer:
                assert (answer.status == 401) is (route.path not in OPEN), route
        async with session.get(f"{served.url}/nowhere") as answer:
            assert answer.status == 401
        async with session.get(f"{served.url}/nowhere", headers={"x-api-key": "0123456789abcdef"}) as answer:
            assert answer.status == 404


async def test_every_route_is_described():
    described = document(ROUTES, keys=True)
    for route in ROUTES:
        path = re.sub(r":[^}]*\}", "}", route.path)
        operation = described["paths"][path][route.method.lower()]
        assert operation["summary"]
        assert ("security" in operation) is (route.access != "open")
        assert ("requestBody" in operation) is (route.body is not None)
        assert route.body is not None or route.method != "POST" or route.path.endswith(("/cancel", "}"))
    for schema in described["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    chat = described["components"]["schemas"]["ChatCompletionRequest"]
    assert {"messages", "max_completion_tokens", "top_k", "tools"} <= set(chat["properties"])


async def test_the_document_and_the_page():
    async with serving(Parrot(config())) as served, aiohttp.ClientSession() as session:
        async with session.get(f"{served.url}/openapi.json") as answer:
            assert (await answer.json())["paths"]["/v1/chat/completions"]["post"]["requestBody"]
        async with session.get(f"{served.url}/docs") as answer:
            page = await answer.text()
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "POST /v1/chat/completions" in page
    assert "max_completion_tokens" in page
    assert "http" not in page.replace("http-", "")  # needs nothing from elsewhere


async def test_no_answer_tells_what_the_server_is_made_of():
    async with serving(Parrot(config())) as served, aiohttp.ClientSession() as session:
        for path in ("/livez", "/docs", "/v1/models", "/nowhere"):
            async with session.get(served.url + path) as answer:
                assert answer.headers["Server"] == "miner"


class Ranker(LLMService):
    async def generate(self, prompt, model=None, max_tokens=512, temperature=0.7, top_p=0.95):
        return ""

    @property
    def capabilities(self):
        return super().capabilities | {"rerank"}

    async def _rerank(self, query, documents, model, top_n):
        scores = [RerankResult(place, float(document.count(query))) for place, document in enumerate(documents)]
        return RerankResponse(results=scores, usage=TokenUsage(7, 0, 7))


async def test_rerank_where_the_backend_can():
    body = {"query": "a", "documents": ["b", {"text": "aa"}, "a"], "top_n": 2}
    async with serving(Ranker(config())) as served, post(served, body, "/v1/rerank") as answer:
        told = await answer.json()
    assert answer.status == 200
    assert [(one["index"], one["relevance_score"]) for one in told["results"]] == [(1, 2.0), (2, 1.0)]
    assert told["results"][0]["document"] == {"text": "aa"}
    assert told["usage"] == {"prompt_tokens": 7, "total_tokens": 7}


async def test_rerank_without_the_documents_and_with_a_wrong_number_of_them():
    body = {"query": "a", "documents": ["b", "a"], "return_documents": False}
    async with serving(Ranker(config())) as served:
        async with post(served, body, "/v1/rerank") as answer:
            told = await answer.json()
        async with post(served, {**body, "top_n": 0}, "/v1/rerank") as answer:
            refused = await answer.json()
    assert told["results"] == [{"index": 1, "relevance_score": 1.0}, {"index": 0, "relevance_score": 0.0}]
    assert answer.status == 400
    assert refused["error"]["param"] == "top_n"


@pytest.mark.parametrize(
    ("body", "code"), [({"query": "a", "documents": ["b"]}, "unsupported_feature"), ({"query": "a"}, "invalid_request")]
)
async def test_rerank_where_it_cannot(body, code):
    async with serving(Parrot(config())) as served, post(served, body, "/v1/rerank") as answer:
        told = await answer.json()
    assert answer.status == 400
    assert (told["error"]["type"], told["error"]["code"]) == ("invalid_request_error", code)
    assert "backends can" not in told["error"]["message"]
    if code == "unsupported_feature":
        assert told["error"]["param"] == "model"


class Listener(Parrot):
    """Its engine ranks, but not with this model."""

    @property
    def capabilities(self):
        return super().capabilities | {"rerank"}

    async def _get_model(self, model_name):
        return ModelInfo(id=model_name, capabilities=frozenset({"chat"}))


async def test_rerank_where_the_backend_could_and_its_model_cannot():
    body = {"model": "m", "query": "a", "documents": ["b"]}
    async with serving(Listener(config())) as served, post(served, body, "/v1/rerank") as answer:
        told = await answer.json()
    assert answer.status == 400
    assert told["error"]["param"] == "model"
    assert told["error"]["type"] == "invalid_request_error"
    assert "model 'm' does not support rerank" in told["error"]["message"]
    assert "backends can" not in told["error"]["message"]
