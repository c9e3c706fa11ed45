"""What is remembered of a server does not count for the one that stands there after a restart, nor forever."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from miner.core.llms.contract.cache import TTLCache
from miner.errors import BackendUnavailableError, UnsupportedFeatureError
from tests.core.engine.children import Clock
from tests.core.llms.test_llm_vllm import answer_with, without_template
from tests.core.services import MESSAGES, WEATHER, service_at, speaking_to
from tests.servers.openai_stub import StubServer

TEMPLATE_IN_REQUEST = "Chat template is passed with request, but --trust-request-chat-template is not set."


def restarted(old: StubServer, **given: Any) -> StubServer:
    """Another server at the same address."""
    server = StubServer(**given)
    server.port = old.port
    return server


def refusing(body: dict[str, Any]) -> Any:
    if "chat_template" in body:
        return 400, {"error": {"message": TEMPLATE_IN_REQUEST, "type": "BadRequestError", "param": None, "code": 400}}
    return "Hello there."


async def test_a_template_in_one_request_changes_nothing_for_others():
    async with StubServer(reply=refusing) as server, speaking_to("vllm", server) as service:
        with pytest.raises(UnsupportedFeatureError, match="--trust-request-chat-template") as caught:
            await service.generate("hi", extra={"chat_template": "{{ messages }}"})
        assert caught.value.param == "extra"
        assert await service.generate("hi") == "Hello there."
        assert {request.path for request in server.generations} == {"/v1/chat/completions"}


async def test_that_a_model_has_no_template_is_forgotten_after_a_while(monkeypatch: pytest.MonkeyPatch):
    clock = Clock()
    monkeypatch.setattr("miner.core.llms.contract.cache.time", SimpleNamespace(monotonic=clock))
    async with StubServer(reply=without_template) as server, speaking_to("vllm", server) as service:
        service._no_template = TTLCache(1000.0)
        assert await service.generate("hi") == await service.generate("hi") == "Once more."
        assert [request.path[4:] for request in server.generations] == [
            "chat/completions",
            "completions",
            "completions",
        ]
        server.reply = "Hello there."
        clock.ahead += 1000.0
        assert await service.generate("hi") == "Hello there."


@pytest.mark.parametrize("asked_between", [False, True])
async def test_a_vllm_that_was_restarted_is_asked_again(asked_between: bool):
    """With a chat template, a reasoning parser, another context."""

    def bare(body: dict[str, Any]) -> Any:
        chat = body.get("messages")
        return without_template(body) if chat is None or "untold" in str(chat) else answer_with(None)

    async with StubServer(owner="vllm", reply=bare, max_model_len=2048) as first:
        service = service_at("vllm", first.url)
        assert "reasoning" not in (await service.list_models())[0].capabilities
        await service.generate("untold")
        assert service._no_template.get("m")
    async with service:
        if asked_between:
            with pytest.raises(BackendUnavailableError):
                await service.generate("hi")
        async with restarted(
            first, owner="vllm", reply=answer_with({"reasoning_tokens": 0}), max_model_len=64
        ) as second:
            assert await service.generate("untold", reasoning=True, max_tokens=1000) == "a"
            assert {request.path for request in second.generations} == {"/v1/chat/completions"}
            assert second.bodies[-1]["max_tokens"] == 64
            assert "reasoning" in (await service.list_models())[0].capabilities


@pytest.mark.parametrize("asked_between", [False, True])
async def test_an_ollama_that_was_restarted_is_asked_again(asked_between: bool):
    async with StubServer(capabilities=["completion"]) as first:
        service = service_at("ollama", first.url)
        with pytest.raises(UnsupportedFeatureError, match="tools"):
            await service.chat_completion(MESSAGES, tools=[WEATHER])
    async with service:
        if asked_between:
            assert not await service.health_check()
        async with restarted(first, capabilities=["completion", "tools", "thinking"]) as second:
            assert await service.generate("hi") == "Hello there."
            assert second.bodies[-1]["think"] is True
            await service.chat_completion(MESSAGES, tools=[WEATHER])


async def test_what_is_known_lasts_while_nothing_shows_a_restart():
    async with StubServer(owner="vllm", reply=answer_with(None)) as server, speaking_to("vllm", server) as service:
        for _ in range(3):
            await service.list_models()
            await service.generate("hi")
        assert len(server.bodies) == 4  # one to find out, and three
        assert len([request for request in server.requests if request.method == "GET"]) < 8
