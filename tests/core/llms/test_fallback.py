"""MINER_LLM_FALLBACKS: which backend serves while the chosen one is unavailable, and when that is tried again."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from miner.core.llms import get_backend
from miner.core.llms.fallback import FallbackService
from miner.core.llms.llm_vllm import VLLMService
from miner.core.llms.LLMService import LLMService
from miner.errors import (
    BackendProtocolError,
    BackendUnavailableError,
    InvalidRequestError,
    ModelNotFoundError,
    StreamInterruptedError,
    UnsupportedFeatureError,
)
from tests.core.engine.children import Clock
from tests.core.llms.contract.test_failures import MODES, Faulty
from tests.core.services import MESSAGES, ask, nothing_left, read, settings
from tests.servers import faults
from tests.servers.openai_stub import StubServer
from tests.servers.ports import closed_port


def chained(vllm: Any, ollama: Any, **given: Any) -> LLMService:
    """VLLM first, Ollama behind it; a server, or None for nobody."""
    nobody = f"http://127.0.0.1:{closed_port()}"
    config = settings(
        llm_backend="vllm",
        vllm_api_base=f"{vllm.url if vllm else nobody}/v1",
        ollama_base_url=ollama.url if ollama else nobody,
        **{"llm_fallbacks": "ollama", **given},
    )
    return get_backend(None, config)


@pytest.mark.parametrize("mode", MODES)
async def test_while_the_first_is_down_the_next_serves_and_is_named(mode: str, caplog: pytest.LogCaptureFixture):
    async with StubServer() as server, chained(None, server) as service:
        with caplog.at_level(logging.WARNING, "miner.fallback"):
            if mode == "call":
                response = await service.chat_completion(MESSAGES)
            else:
                response = await service.stream("hi").collect()
        assert (response.content, response.backend, response.model) == ("Hello there.", "ollama", "m:latest")
        assert await service.generate("hi") == "Hello there."
    [record] = [record for record in caplog.records if record.name == "miner.fallback"]
    assert "connection refused" in record.getMessage()
    assert "In cooldown for 30 s" in record.getMessage()


@pytest.mark.parametrize("mode", MODES)
async def test_options_reach_whoever_answers(mode: str):
    async with StubServer() as server:
        for up in ((server, None), (None, server)):
            async with chained(*up) as service:
                await ask(service, mode, seed=7, min_p=0.5, max_tokens=3)
                body = server.bodies[-1]
                told = body.get("options") or body
                assert (told["seed"], told["min_p"]) == (7, 0.5)
                assert told.get("num_predict", told.get("max_tokens")) == 3


@pytest.mark.parametrize("mode", MODES)
async def test_while_the_first_is_up_it_answers(mode: str):
    async with StubServer() as first, StubServer(reply="wrong one") as second, chained(first, second) as service:
        assert isinstance(service, FallbackService)
        response = await (service.chat_completion(MESSAGES) if mode == "call" else service.stream("hi").collect())
        assert (response.content, response.backend) == ("Hello there.", "vllm")
        assert second.requests == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("given", "kind"),
    [({"temperature": 9}, InvalidRequestError), ({"model": "nobody"}, ModelNotFoundError),
     ({"keep_alive": 5}, UnsupportedFeatureError), ({"temprature": 1}, InvalidRequestError)],
)  # fmt: skip
async def test_a_wrong_request_is_wrong_everywhere(given: dict[str, Any], kind: type[Exception], mode: str):
    async with StubServer() as first, StubServer() as second, chained(first, second) as service:
        with pytest.raises(kind):
            await ask(service, mode, **given)
        assert second.requests == []
        assert await ask(service, mode) == "Hello there."  # and nobody is left alone for it
        assert second.requests == []


@pytest.mark.parametrize("mode", MODES)
async def test_an_answer_that_is_bad_is_not_asked_for_elsewhere(mode: str):
    async with Faulty(faults.not_json()) as first, StubServer() as second, chained(first, second) as service:
        with pytest.raises(BackendProtocolError):
            await ask(service, mode)
        assert second.requests == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "fault",
    [faults.status(503), faults.status(500), faults.status(401, everywhere=True), faults.reset(), faults.silent(False),
     faults.status(429, retry_after="3600")],
    ids=lambda item: item.name,
)  # fmt: skip
async def test_what_counts_as_down(fault: faults.Behaviour, mode: str):
    async with Faulty(fault) as first, StubServer() as second, chained(first, second, vllm_timeout=0.3) as service:
        assert await ask(service, mode) == "Hello there."
        assert len(second.bodies) == 1


async def test_a_stream_falls_over_only_before_its_first_chunk():
    async with Faulty(faults.truncated()) as first, StubServer() as second, chained(first, second) as service:
        with pytest.raises(StreamInterruptedError) as caught:
            await read(service.stream("hi"))
        assert caught.value.partial.content == "Hello there."
        assert second.requests == []


@pytest.mark.parametrize("mode", MODES)
async def test_the_first_is_tried_again_after_its_cooldown(mode: str, monkeypatch: pytest.MonkeyPatch):
    clock = Clock()
    monkeypatch.setattr("miner.core.llms.contract.failover.time", SimpleNamespace(monotonic=clock))
    async with (
        Faulty(faults.sequence(faults.status(503), faults.ok(["first"]))) as first,
        StubServer(reply="second") as second,
        chained(first, second, fallback_cooldown=1000.0) as service,
    ):
        assert [await ask(service, mode) for _ in range(3)] == ["second"] * 3
        assert len(first.generations) == 1
        clock.ahead += 1000.0
        assert await ask(service, mode) == "first"
        assert len(second.bodies) == 3


async def test_the_first_is_sent_again_before_the_next_is_asked():
    async with (
        Faulty(faults.sequence(faults.status(503), faults.ok(["first"]))) as first,
        StubServer(reply="second") as second,
        chained(first, second, max_retries=1) as service,
    ):
        assert await service.generate("hi") == "first"
        assert second.requests == []
        assert service.retries == 1


@pytest.mark.parametrize("mode", MODES)
async def test_all_of_them_down_is_an_error_of_the_last_that_was_asked(mode: str):
    async with chained(None, None) as service:
        for backend in ("ollama", "vllm"):
            with pytest.raises(BackendUnavailableError, match=f"{backend} at") as caught:
                await ask(service, mode)
            assert caught.value.backend == backend


async def test_those_in_cooldown_are_tried_when_all_others_fail():
    async with StubServer() as server:
        service = chained(None, None)
        with pytest.raises(BackendUnavailableError):
            await service.generate("hi")
        service.config.vllm_api_base = server.v1
        assert await service.generate("hi") == "Hello there."
        await service.aclose()


async def test_a_model_that_only_the_first_knows_is_answered_by_the_others_own():
    async with (
        Faulty(faults.status(503), models=("big",)) as first,
        StubServer(["m"]) as second,
        chained(first, second) as service,
    ):
        response = await service.chat_completion(MESSAGES, model="big")
        assert (response.backend, response.model) == ("ollama", "m:latest")
    async with (
        Faulty(faults.status(503), models=("m",)) as first,
        StubServer(["m", "n"]) as second,
        chained(first, second) as service,
    ):
        response = await service.chat_completion(MESSAGES, model="m")
        assert (response.backend, response.model) == ("ollama", "m")
        with pytest.raises(ModelNotFoundError, match="several models"):
            await service.chat_completion(MESSAGES, model="big")


async def test_the_other_verbs_fall_over_too():
    async with StubServer(capabilities=["embedding"]) as server, chained(None, server) as service:
        assert [model.id for model in await service.list_models()] == ["m:latest"]
    async with StubServer() as server, chained(server, None) as service:
        assert await service.count_tokens("one two", raw=True) == 2
        pairs = [pair async for pair in service.generate_many(["a", "b"])]
        assert sorted(pairs) == [(0, "Hello there."), (1, "Hello there.")]


VECTORS: Any = {"/v1/embeddings": {"data": [{"index": 0, "embedding": [1.0, 0.0]}], "usage": {"prompt_tokens": 2}}}
SCORES: Any = {"/v1/rerank": {"results": [{"index": 0, "relevance_score": 0.5}]}}


async def test_vectors_come_of_one_model_whoever_is_up():
    """Those of two models cannot be compared; nor are they of one length."""
    async with StubServer(capabilities=["embedding"]) as second:
        async with chained(None, second) as service:
            for options in ({}, {"model": "other"}):
                with pytest.raises(BackendUnavailableError, match="vllm"):
                    await service.embed("hello", **options)
            assert second.bodies == []
            # The very same name is the same model.
            made = await service.embed("hello", model="m")
            assert (made.model, made.dimensions) == ("m", 3)
        async with chained(None, second, default_model="m") as service:
            assert (await service.embed("hello")).dimensions == 3
        async with chained(None, second, default_model="another") as service:
            with pytest.raises(BackendUnavailableError, match="vllm"):
                await service.embed("hello")


async def test_what_made_the_vectors_before_makes_them_again():
    async with StubServer(capabilities=["embedding"]) as second:
        for name, other in (("m", False), ("bge", True)):
            async with StubServer([name], side=VECTORS) as first:
                service = chained(first, second)
                assert (await service.embed("hello")).dimensions == 2
            async with service:
                if other:
                    with pytest.raises(BackendUnavailableError, match="vllm"):
                        await service.embed("hello")
                else:
                    assert (await service.embed("hello")).model == "m"


async def test_scores_come_of_one_model_whoever_is_up():
    async with StubServer(["bge"], side=SCORES) as server:
        config = settings(llm_fallbacks="vllm", llm_backend="ollama", vllm_api_base=server.v1,
                          ollama_base_url=f"http://127.0.0.1:{closed_port()}")  # fmt: skip
        async with get_backend(None, config) as service:  # Ollama never can: whether it is up changes nothing
            assert (await service.rerank("q", ["a"])).results[0].relevance_score == 0.5
    nobody = f"http://127.0.0.1:{closed_port()}"
    async with StubServer(["bge"], side=SCORES) as server:

        class Second(VLLMService):
            name = "second"

        first = VLLMService(settings(vllm_api_base=f"{nobody}/v1"))
        both = FallbackService(settings(), first, [], lambda name: None)
        both._services.append(Second(settings(vllm_api_base=server.v1)))
        async with both:
            with pytest.raises(BackendUnavailableError, match="vllm"):
                await both.rerank("q", ["a"])
            assert (await both.rerank("q", ["a"], model="bge")).model == "bge"


async def test_health_is_ready_when_any_is_and_tells_of_the_others():
    async with StubServer() as first, StubServer() as second:
        for up, state, words in (
            ((first, second), "ready", []),
            ((None, second), "ready", ["vllm: ", "connection refused"]),
            ((first, None), "ready", ["ollama: "]),
            ((None, None), "unavailable", ["vllm: ", "ollama: "]),
        ):
            async with chained(*up) as service:
                health = await service.health()
                assert health.state == state
                assert await service.health_check() is (state == "ready")
                assert [word for word in words if word not in (health.reason or "")] == []
                assert bool(health.hint) is (state != "ready")
                assert words or health.reason is None


async def test_health_asks_all_at_once():
    async with Faulty(faults.silent()) as first, Faulty(faults.silent()) as second, chained(first, second) as service:
        assert not await service.health()
        # One after the other the second would be asked when the first has run out of time, 1.5 s later.
        assert abs(first.requests[0].received - second.requests[0].received) < 1.4


async def test_unknown_names_are_skipped_with_a_warning(caplog: pytest.LogCaptureFixture):
    async with StubServer() as server:
        service = chained(None, server, llm_fallbacks="no-such, ollama")
        with caplog.at_level(logging.WARNING, "miner.fallback"):
            for _ in range(2):
                assert await service.generate("hi") == "Hello there."
        warned = [r.getMessage() for r in caplog.records if "no-such" in r.getMessage()]
        assert len(warned) == 1
        assert "There is no backend 'no-such'" in warned[0]
        await service.aclose()


async def test_itself_twice_is_once_and_none_is_the_bare_service():
    config = {"llm_backend": "vllm", "llm_fallbacks": "vllm, ,ollama,"}
    service = get_backend(None, settings(**config))
    assert isinstance(service, FallbackService)
    assert [inner.name for inner in service._all()] == ["vllm", "ollama"]
    assert isinstance(get_backend(None, settings(llm_backend="vllm", llm_fallbacks="vllm")), VLLMService)


@pytest.mark.parametrize("mode", MODES)
async def test_a_cancelled_request_is_not_passed_on(mode: str):
    async with Faulty(faults.silent(False)) as first, StubServer() as second, chained(first, second) as service:
        task = asyncio.create_task(ask(service, mode, model="smollm2"))
        await first.wait_for_requests(2)
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await first.wait_for_disconnects()
        assert second.requests == []
    await nothing_left()


async def test_a_stream_that_is_left_stops_the_one_that_answers():
    async with Faulty(faults.silent_in_stream()) as server, chained(None, server) as service:
        stream = service.stream("hi")
        async for _ in stream:
            break
        await server.wait_for_disconnects()
        assert stream.response.backend == "ollama"
    await nothing_left()
