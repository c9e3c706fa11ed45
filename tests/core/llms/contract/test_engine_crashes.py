"""A request that an engine crashes on: sent again once at most, whoever retries, and never once a byte has arrived."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from miner.core.llms.fallback import FallbackService
from miner.core.llms.llm_ollama import OllamaService
from miner.errors import BackendError, BackendOverloadedError, BackendUnavailableError, StreamInterruptedError
from tests.core.llms.contract.test_closing import CASES, VERBS, Silent
from tests.core.services import ENGINES, service_at, settings, speaking_to
from tests.servers.faults import Behaviour, error_in_stream, reset, sequence, status

GENERATING = [case for case in CASES if case[1] in ("generate", "stream")]
BEGUN = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"
OTHERS = [case for case in CASES if case[1] in ("embed", "rerank", "count_tokens")]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miner.core.llms.contract.retry._FIRST_PAUSE", 0.02)


class Mortal(Silent):
    """Does with each POST that a model answers what a test says."""

    def __init__(self, death: Behaviour) -> None:
        super().__init__()
        self.death = death

    async def handle(self, writer: Any) -> None:
        if writer.request.method == "POST" and writer.request.path != "/api/show":
            self.posts.append(writer.request.path)
            await self.death.run(writer)
        else:
            await super().handle(writer)


async def _drop(writer: Any) -> None:
    writer.drop()


def dropped() -> Behaviour:
    """The connection ends in order, without a byte."""
    return Behaviour("dropped", _drop)


def cut(head: bytes) -> Behaviour:
    """So much of a response, then the end."""

    async def run(writer: Any) -> None:
        await writer.raw(head)
        await asyncio.sleep(0.05)
        writer.reset()

    return Behaviour("cut", run)


@pytest.mark.parametrize("warm", [False, True], ids=["a new connection", "a kept connection"])
@pytest.mark.parametrize("death", [reset(), dropped()], ids=lambda death: death.name)
@pytest.mark.parametrize(("engine", "verb"), CASES)
async def test_a_connection_that_ends_without_a_byte(engine: str, verb: str, death: Behaviour, warm: bool):
    async with (
        Mortal(death) as server,
        speaking_to(engine, server, default_model="smollm2", max_retries=5) as service,
    ):
        if warm:
            await service.list_models()
        with pytest.raises(BackendUnavailableError, match="no response") as caught:
            await VERBS[verb](service)
        assert caught.value.engine_died
        assert len(server.posts) == 2


@pytest.mark.parametrize(
    "head", [b"H", b"HTTP/1.1 200 OK\r\ncontent-ty", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"]
)
@pytest.mark.parametrize(("engine", "verb"), CASES)
async def test_never_after_a_byte_of_the_response(engine: str, verb: str, head: bytes):
    async with (
        Mortal(cut(head)) as server,
        speaking_to(engine, server, default_model="smollm2", max_retries=5) as service,
    ):
        with pytest.raises(StreamInterruptedError):
            await VERBS[verb](service)
        assert len(server.posts) == 1


@pytest.mark.parametrize(("engine", "verb"), GENERATING)
async def test_an_engine_that_crashes_again_after_its_restart(engine: str, verb: str):
    """Between its lives nobody listens: a refused connection carries nothing, and counts as nothing."""

    class Restarted(Mortal):
        async def handle(self, writer: Any) -> None:
            if writer.request.method == "POST" and writer.request.path != "/api/show":
                self.posts.append(writer.request.path)
                assert self._server is not None
                self._server.close()
                writer.drop()
                self.restart = asyncio.create_task(self._again())
            else:
                await Silent.handle(self, writer)

        async def _again(self) -> None:
            await asyncio.sleep(0.1)
            await self.start()

    async with (
        Restarted(dropped()) as server,
        speaking_to(engine, server, default_model="smollm2", max_retries=8) as service,
    ):
        await service.list_models()
        with pytest.raises(BackendUnavailableError):
            await VERBS[verb](service)
        assert len(server.posts) == 2
        await server.restart


DIED: dict[str, list[Behaviour]] = {
    "vllm": [
        status(500, {"error": {"message": "EngineCore encountered an issue.", "type": "InternalServerError"}}),
        error_in_stream(texts=()),
    ],
    "ollama": [
        status(500, {"error": "an error was encountered while running the model: unexpected EOF"}),
        error_in_stream(texts=()),
    ],
}


@pytest.mark.parametrize(
    ("engine", "verb", "death"), [(engine, verb, death) for engine, verb in GENERATING for death in DIED[engine]]
)
async def test_what_stands_before_the_engine_tells_of_its_death(engine: str, verb: str, death: Behaviour):
    async with (
        Mortal(death) as server,
        speaking_to(engine, server, default_model="smollm2", max_retries=5) as service,
    ):
        with pytest.raises(BackendError) as caught:
            await VERBS[verb](service)
        assert len(server.posts) == (2 if caught.value.engine_died else 1)


@pytest.mark.parametrize("verb", ["generate", "stream", "embed"])
async def test_a_fallback_gets_it_once(verb: str):
    async with Mortal(reset()) as first, Mortal(reset()) as second:
        config = settings(
            default_model="smollm2", max_retries=5, vllm_api_base=first.v1, ollama_base_url=second.url,
        )  # fmt: skip
        own = service_at("vllm", first.url, default_model="smollm2", max_retries=5)
        async with FallbackService(config, own, ["ollama"], lambda _: OllamaService(config)) as service:
            with pytest.raises(BackendUnavailableError):
                await VERBS[verb](service)
        assert (len(first.posts), len(second.posts)) == (2, 1)


@pytest.mark.parametrize("verb", ["generate", "stream"])
async def test_a_response_that_had_begun_is_not_asked_for_elsewhere(verb: str):
    async with Mortal(cut(BEGUN)) as first, Mortal(reset()) as second:
        config = settings(default_model="smollm2", vllm_api_base=first.v1, ollama_base_url=second.url)
        own = service_at("vllm", first.url, default_model="smollm2")
        async with FallbackService(config, own, ["ollama"], lambda _: OllamaService(config)) as service:
            with pytest.raises(StreamInterruptedError):
                await VERBS[verb](service)
        assert second.posts == []


@pytest.mark.parametrize("engine", ENGINES)
async def test_metadata_requests_are_retried(engine: str):
    """A list of models is asked for again as often as the settings say."""

    class Restarting(Silent):
        left = 2

        async def handle(self, writer: Any) -> None:
            if writer.request.method == "GET" and self.left:
                self.left -= 1
                writer.drop()
            else:
                self.holds = False
                await super().handle(writer)

    async with Restarting() as server, speaking_to(engine, server, max_retries=2) as service:
        server.behaviour = status(400)
        with pytest.raises(Exception, match=r"400|refused"):
            await service.generate("hi")
        assert service.retries >= 1


@pytest.mark.parametrize("busy", [status(503), status(429)], ids=["503", "429"])
@pytest.mark.parametrize(("engine", "verb"), OTHERS)
async def test_the_other_verbs_are_sent_again_as_generations_are(engine: str, verb: str, busy: Behaviour):
    answers = {
        "/v1/embeddings": {"data": [{"index": 0, "embedding": [1.0]}]},
        "/api/embed": {"embeddings": [[1.0]]},
        "/v1/rerank": {"results": [{"index": 0, "relevance_score": 1.0}]},
        "/tokenize": {"count": 3, "max_model_len": 9, "tokens": [1, 2, 3]},
    }

    async def answer(writer: Any) -> None:
        await writer.respond(200, answers[writer.request.path])

    async with (
        Mortal(sequence(busy, busy, Behaviour("answer", answer))) as server,
        speaking_to(engine, server, default_model="smollm2", max_retries=2) as service,
    ):
        assert await VERBS[verb](service)
        assert (service.retries, len(server.posts)) == (2, 3)
    async with (
        Mortal(busy) as server,
        speaking_to(engine, server, default_model="smollm2", max_retries=1) as service,
    ):
        with pytest.raises((BackendUnavailableError, BackendOverloadedError)):
            await VERBS[verb](service)
        assert (service.retries, len(server.posts)) == (1, 2)


@pytest.mark.parametrize(("engine", "verb"), OTHERS)
async def test_what_cannot_help_is_not_sent_again(engine: str, verb: str):
    async with (
        Mortal(status(400)) as server,
        speaking_to(engine, server, default_model="smollm2", max_retries=3) as service,
    ):
        with pytest.raises(Exception, match=r"400|refused"):
            await VERBS[verb](service)
        assert (service.retries, len(server.posts)) == (0, 1)
