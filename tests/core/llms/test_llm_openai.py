"""OpenAIAPIService on the wire: OpenAI's API, and beyond it what a server's list of models says."""

from __future__ import annotations

from typing import Any

import pytest

from miner.core.llms.llm_openai import OpenAIAPIService
from miner.core.wire import Token
from miner.errors import ModelNotFoundError, UnsupportedFeatureError
from tests.core.services import MESSAGES, WEATHER, PlainService, settings
from tests.servers.openai_stub import StubServer

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
SEEN = [{"role": "user", "content": [IMAGE, {"type": "text", "text": "What is it?"}]}]


def service_of(server: Any) -> OpenAIAPIService:
    return OpenAIAPIService(settings(openai_api_base=f"{server.url}/v1"))


def listing(*capabilities: str, owner: str = "llamacpp") -> dict[str, Any]:
    model = {"id": "m", "object": "model", "created": 1, "owned_by": owner, "capabilities": list(capabilities)}
    return {"object": "list", "data": [model]}


async def test_a_plain_server_is_sent_nothing_but_openais_api():
    async with StubServer() as server, service_of(server) as service:
        await service.chat_completion(SEEN, seed=1)
        assert server.bodies[-1]["messages"][0]["content"] == SEEN[0]["content"]
        for name, value in {"top_k": 3, "min_p": 0.1, "repeat_penalty": 1.1, "reasoning": True}.items():
            with pytest.raises(UnsupportedFeatureError, match=name):
                await service.generate("hi", **{name: value})


@pytest.mark.parametrize(("owner", "penalty"), [("vllm", "repetition_penalty"), ("llamacpp", "repeat_penalty")])
async def test_a_server_that_says_who_it_is_takes_its_own_options(owner, penalty):
    async with StubServer(owner=owner) as server, service_of(server) as service:
        await service.generate("hi", top_k=3, min_p=0.1, repeat_penalty=1.1)
        body = server.bodies[-1]
        assert (body["top_k"], body["min_p"], body[penalty]) == (3, 0.1, 1.1)


async def test_a_gateway_lists_what_each_model_can():
    able = listing("chat", "top_k", "reasoning", "stop", "keep_alive", "regex", "count_tokens")
    async with StubServer(side={"/v1/models": able}) as server, service_of(server) as service:
        await service.generate("hi", top_k=3, reasoning="low")
        assert server.bodies[-1]["top_k"] == 3
        assert server.bodies[-1]["reasoning_effort"] == "low"
        server.reply = "aa"
        await service.generate("hi", keep_alive="5m", response_format={"type": "regex", "regex": "a+"})
        assert server.bodies[-1]["keep_alive"] == "5m"
        assert server.bodies[-1]["response_format"] == {"type": "regex", "regex": "a+"}
        for name, value in {"min_p": 0.1, "seed": 1}.items():
            with pytest.raises(UnsupportedFeatureError, match=name):
                await service.generate("hi", **{name: value})
        with pytest.raises(UnsupportedFeatureError, match="model 'm' does not support embeddings"):
            await service.embed("hi")
        with pytest.raises(UnsupportedFeatureError, match="model 'm' does not support images"):
            await service.chat_completion(SEEN)


async def test_the_default_model_of_a_gateway():
    models = listing()["data"] + [listing()["data"][0] | {"id": "other", "default": True}]
    async with (
        StubServer(["m", "other"], side={"/v1/models": {"data": models}}) as server,
        service_of(server) as service,
    ):
        await service.generate("hi")
        assert server.bodies[-1]["model"] == "other"
    async with StubServer(["m", "b"]) as server, service_of(server) as service:
        with pytest.raises(ModelNotFoundError, match="serves several models and none was named"):
            await service.generate("hi")


async def test_another_backend_takes_of_it_what_it_can_send():
    able = listing("chat", "top_k", "keep_alive", "seed")
    async with (
        StubServer(side={"/v1/models": able}) as server,
        PlainService(settings(vllm_api_base=server.v1)) as plain,
    ):
        assert (await plain.list_models())[0].capabilities == {"chat", "top_k", "seed"}
        with pytest.raises(UnsupportedFeatureError, match="keep_alive"):
            await plain.generate("hi", keep_alive="5m")


@pytest.mark.parametrize("capabilities", ["completion", {"completion_chat": True}, [], ["completion", "tools"], [1]])
async def test_capabilities_in_other_words_are_no_gateways(capabilities):
    models = listing() | {"data": [listing()["data"][0] | {"capabilities": capabilities, "owned_by": "x"}]}
    async with StubServer(side={"/v1/models": models}) as server, service_of(server) as service:
        assert (await service.list_models())[0].capabilities is None
        assert await service.generate("hi", seed=1) == "Hello there."


async def test_token_counts_by_the_first_route_that_is_there():
    own, chat = "/v1/responses/input_tokens", "/v1/chat/completions/input_tokens"
    absent = (404, {"detail": "Not Found"})
    async with StubServer(side={own: {"input_tokens": 7}}) as server, service_of(server) as service:
        assert await service.count_tokens("hi") == 7
        assert (
            await service.count_tokens(messages=MESSAGES, tools=[WEATHER]) == 4
        )  # by the next one: tools have another form there
        server.side = {own: absent, chat: {"input_tokens": 8}}
        assert await service.count_tokens("hi") == 8
        server.side = {own: absent, chat: absent, "/tokenize": {"count": 9, "max_model_len": 10, "tokens": [1]}}
        assert await service.count_tokens("hi") == 9
        server.side = {own: absent, chat: absent, "/tokenize": absent}
        with pytest.raises(UnsupportedFeatureError, match=r"does not count tokens: it has none of /responses"):
            await service.count_tokens("hi")


async def test_tokens_of_a_text_in_both_forms():
    async with StubServer() as server, service_of(server) as service:
        server.side = {"/tokenize": {"tokens": [{"id": 1, "piece": "H"}, {"id": 2, "piece": [195]}]}}
        assert await service.tokenize("Hé") == [Token(1, "H"), Token(2, "�", [195])]
        server.side = {"/tokenize": {"count": 2, "max_model_len": 9, "tokens": [3, 4], "token_strs": ["a", "Ġb"]}}
        assert await service.tokenize("a b", "m", special=False) == [Token(3, "a"), Token(4, "Ġb")]
        server.side = {"/tokenize": {"tokens": [5]}}
        assert await service.count_tokens("a", raw=True) == 1
        server.side = {"/tokenize": (404, {"detail": "Not Found"})}
        with pytest.raises(UnsupportedFeatureError, match="has no /tokenize"):
            await service.tokenize("a")


async def test_ranking_is_tried():
    async with StubServer() as server, service_of(server) as service:
        server.side = {
            "/v1/rerank": {"results": [{"index": 1, "relevance_score": 2.0}, {"index": 0, "relevance_score": 1}]}
        }
        ranked = await service.rerank("q", ["a", "b"])
        assert [(each.index, each.document) for each in ranked.results] == [(1, "b"), (0, "a")]
        server.side = {"/v1/rerank": (404, {"detail": "Not Found"})}
        with pytest.raises(UnsupportedFeatureError, match="does not rerank: it has no /v1/rerank"):
            await service.rerank("q", ["a", "b"])
        server.side = {"/v1/rerank": (501, {"error": {"code": 501, "message": "Start it with --reranking."}})}
        with pytest.raises(UnsupportedFeatureError, match="Start it with --reranking"):
            await service.rerank("q", ["a", "b"])


async def test_an_image_for_a_server_without_eyes():
    failed = (500, {"error": {"code": 500, "message": "image input is not supported - hint: an mmproj"}})
    async with StubServer(reply=failed) as server, service_of(server) as service:
        with pytest.raises(UnsupportedFeatureError, match="image input is not supported"):
            await service.chat_completion(SEEN)
