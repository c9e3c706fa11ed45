"""A request on its way: its model is looked up once, it is not modified, and what can never fit is refused at once."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from miner.config.config import MinerConfig
from miner.core.llms.contract.capabilities import drop_param, without_ignored
from miner.core.llms.contract.request import build_request
from miner.core.llms.contract.resolution import check_length
from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.core.wire import ModelInfo
from miner.errors import ContextLengthError
from tests.core.llms.test_fallback import chained
from tests.core.services import ENGINES, MESSAGES, read, speaking_to
from tests.gateway.serving import post, serving
from tests.servers.openai_stub import StubServer
from tests.tiny_model import CONTEXT, write_tiny_model

HUGE = "é " * 300_000  # 900,000 bytes


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", [{}, {"reasoning": False}, {"response_format": {"type": "json_object"}}])
async def test_a_request_looks_its_model_up_once(engine: str, options: dict[str, Any], monkeypatch):
    async with StubServer(reply="{}") as server, speaking_to(engine, server, default_model="m") as service:
        calls: list[str] = []
        get_model = service._get_model

        async def counted(name: str) -> Any:
            calls.append(name)
            return await get_model(name)

        monkeypatch.setattr(service, "_get_model", counted)
        for send in (
            lambda: service.generate("hi", **options),
            lambda: service.chat_completion(MESSAGES, **options),
            lambda: read(service.stream("hi", **options)),
        ):
            calls.clear()
            await send()
            assert calls == ["m"]


def test_copies_share_what_is_found_out_and_the_request_stays_as_it_was():
    request = build_request(
        prompt="x", max_tokens=1, temperature=0, top_p=1, unsupported="ignore", options={"seed": 3, "stop": "x"}
    )
    lesser = drop_param(request, "seed")
    assert (request.seed, lesser.seed, lesser.stop) == (3, None, ["x"])
    assert request.resolution.ignored == lesser.resolution.ignored == ["seed"]
    assert without_ignored(request) == lesser
    lesser.resolution.model = ModelInfo(id="m")
    assert replace(request, model="m").resolution.model is not None
    with pytest.raises(AttributeError, match="immutable"):
        request.seed = 4  # type: ignore[misc]


async def test_a_fallback_looks_it_up_once_too(monkeypatch: pytest.MonkeyPatch):
    async with StubServer() as server, chained(None, server) as service:
        await service.generate("hi")
        calls: list[str] = []
        ollama = service._all()[1]
        get_model = ollama._get_model

        async def counted(name: str) -> Any:
            calls.append(name)
            return await get_model(name)

        monkeypatch.setattr(ollama, "_get_model", counted)
        await service.generate("hi", model="m")
        await read(service.stream("hi", model="m"))
        assert calls == ["m", "m"]


@asynccontextmanager
async def tiny(tmp_path, **settings):
    path = write_tiny_model(tmp_path / "tiny.gguf")
    service = LlamaCppService(MinerConfig(_env_file=None, model_path=str(path), llamacpp_threads=1, **settings))
    try:
        yield service
    finally:
        await service.aclose()


async def test_all_verbs_refuse_it_before_an_engine_is_started(tmp_path):
    async with tiny(tmp_path, llamacpp_pooling="mean") as service:
        turns = [{"role": "user", "content": HUGE}]
        for ask in (
            service.generate(HUGE), service.generate(HUGE, raw=True), service.chat_completion(turns),
            service.count_tokens(HUGE), service.embed(["a", HUGE]),
        ):  # fmt: skip
            with pytest.raises(ContextLengthError, match=f"at least 3516 tokens .* the context {CONTEXT}") as caught:
                await ask
            assert caught.value.prompt_tokens == 3516
            assert caught.value.context_length == CONTEXT
        assert (await service.health()).engines == []


async def test_over_the_gateway_nobody_waits_for_it(tmp_path):
    async with tiny(tmp_path) as service, serving(service) as served:
        body = {"messages": [{"role": "user", "content": "x " * 300_000}], "max_tokens": 1}
        async with asyncio.timeout(60), post(served, body, headers={"content-type": "application/json"}) as answer:
            told = (await answer.json())["error"]
            assert (answer.status, told["code"]) == (400, "context_length_exceeded")
        assert (await service.health()).engines == []


def test_the_bound():
    check_length(["x" * 2560], 10, "m", "prompt")
    check_length(["x" * 10_000_000], None, "m", "prompt")
    for texts in (["x" * 2561], ["x" * 2000, "é" * 281]):
        with pytest.raises(ContextLengthError, match="at least 11 tokens"):
            check_length(texts, 10, "m", "prompt")
