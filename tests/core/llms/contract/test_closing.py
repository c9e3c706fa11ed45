"""A service that is closed while calls run: each gets a typed error at once, and nothing is ever sent again."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from miner.config.config import MinerConfig
from miner.core.llms.fallback import FallbackService
from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.core.llms.llm_ollama import OllamaService
from miner.core.llms.LLMService import LLMService
from miner.core.wire import ModelInfo
from miner.errors import ServiceClosedError
from tests.core.llms.contract.test_failures import Faulty
from tests.core.services import ENGINES, MESSAGES, ask, nothing_left, read, service_at, settings, speaking_to
from tests.servers import faults
from tests.servers.openai_stub import StubServer

VERBS: dict[str, Callable[[LLMService], Awaitable[Any]]] = {
    "generate": lambda service: service.generate("hi"),
    "chat": lambda service: service.chat_completion(MESSAGES),
    "bounded": lambda service: service.generate("hi", timeout={"first": 60, "total": 90}),
    "stream": lambda service: read(service.stream("hi")),
    "batches": lambda service: _all(service.stream("hi").batches()),
    "collect": lambda service: service.stream("hi").collect(),
    "embed": lambda service: service.embed(["hi"]),
    "rerank": lambda service: service.rerank("hi", ["ho"]),
    "count_tokens": lambda service: service.count_tokens("hi"),
}
OF_ENGINE = {
    "vllm": list(VERBS),
    "ollama": [verb for verb in VERBS if verb not in ("rerank", "count_tokens")],
}
CASES = [(engine, verb) for engine, verbs in OF_ENGINE.items() for verb in verbs]
PATHS = {"embed": "/v1/embeddings", "rerank": "/v1/rerank", "count_tokens": "/tokenize"}


async def _all(batches: AsyncIterator[Any]) -> list[Any]:
    return [batch async for batch in batches]


class Silent(Faulty):
    """Answers what is asked about models, and holds every other POST. Embeds, ranks and counts, as its models say."""

    def __init__(self) -> None:
        super().__init__(faults.silent(False))
        self.posts: list[str] = []
        self.holds = True

    async def handle(self, writer: Any) -> None:
        request = writer.request
        if request.method == "GET" and request.path in ("/v1/chat/completions", "/v1/embeddings", "/v1/rerank"):
            await writer.respond(405, {"detail": "Method Not Allowed"})
        elif request.path == "/api/show":
            await writer.respond(200, {"capabilities": ["completion", "embedding"], "details": {}, "model_info": {}})
        elif request.method == "POST" and self.holds:
            self.posts.append(request.path)
            await writer.hold()
        else:
            await super().handle(writer)

    async def until_held(self, count: int = 1) -> None:
        await self._wait(lambda: len(self.posts) >= count, f"{count} requests", 30)


async def closed_at_once(service: LLMService, *tasks: asyncio.Task[Any]) -> None:
    """Close it, and expect the error in each task within a bound that no retry and no timeout would keep."""
    await asyncio.sleep(0.05)
    async with asyncio.timeout(15):
        await service.aclose()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        assert type(end) is ServiceClosedError, repr(end)
        assert "was closed" in end.message
        assert not end.retryable
    assert all(task.cancelling() == 0 for task in tasks)


@pytest.mark.parametrize("warm", [False, True], ids=["a new connection", "a kept connection"])
@pytest.mark.parametrize(("engine", "verb"), CASES)
async def test_a_call_that_waits_for_its_first_byte(
    engine: str, verb: str, warm: bool, monkeypatch: pytest.MonkeyPatch
):
    """A kept connection that we close ourselves is no stale one."""
    monkeypatch.setattr("miner.core.llms.contract.retry._FIRST_PAUSE", 0.01)
    async with Silent() as server:
        service = service_at(engine, server.url, default_model="smollm2", max_retries=5)
        if warm:
            await service.list_models()
        task = asyncio.create_task(VERBS[verb](service))  # type: ignore[arg-type]
        await server.until_held()
        await closed_at_once(service, task)
        await server.wait_for_disconnects()
        await asyncio.sleep(0.1)
        assert len(server.posts) == 1
        server.holds = False
        server.behaviour = faults.ok()
        assert await ask(service, "call") == "Hello there."  # used again, it opens again
        await service.aclose()
    await nothing_left()


@pytest.mark.parametrize(("engine", "verb"), CASES)
async def test_a_call_in_the_pause_before_it_is_sent_again(engine: str, verb: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("miner.core.llms.contract.retry._FIRST_PAUSE", 20.0)
    busy = faults.status(503)

    class Busy(Silent):
        async def handle(self, writer: Any) -> None:
            if writer.request.method == "POST" and writer.request.path != "/api/show":
                self.posts.append(writer.request.path)
                await busy.run(writer)
            else:
                await super().handle(writer)

    async with Busy() as server:
        service = service_at(engine, server.url, default_model="smollm2", max_retries=5)
        task = asyncio.create_task(VERBS[verb](service))  # type: ignore[arg-type]
        await server.until_held()
        await closed_at_once(service, task)
        assert len(server.posts) == 1


@asynccontextmanager
async def black_hole() -> AsyncIterator[str]:
    """An address that neither accepts nor refuses a connection: its queue of connections is full."""
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(hole.getsockname())
            fillers.append(filler)
        await asyncio.sleep(0.05)
        try:
            yield f"http://127.0.0.1:{hole.getsockname()[1]}"
        finally:
            for filler in fillers:
                filler.close()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("verb", ["generate", "stream", "embed"])
async def test_a_call_that_connects(engine: str, verb: str):
    async with black_hole() as url:
        service = service_at(engine, url, default_model="smollm2", max_retries=5)
        task = asyncio.create_task(VERBS[verb](service))  # type: ignore[arg-type]
        await asyncio.sleep(0.1)
        await closed_at_once(service, task)
    await nothing_left()


async def test_what_is_no_generation_ends_too():
    async with Faulty(faults.silent(), everywhere=True) as server:
        service = service_at("ollama", server.url, default_model="smollm2", max_retries=5)
        tasks = [
            asyncio.create_task(service.list_models()),
            asyncio.create_task(service.load_model("smollm2")),
            asyncio.create_task(service.unload_model("smollm2")),
        ]
        await server.wait_for_requests(3)
        health = asyncio.create_task(service.health())
        await server.wait_for_requests(4)
        await closed_at_once(service, *tasks)
        told = await health
        assert (told.state, "was closed" in (told.reason or "")) == ("unavailable", True)
        assert len(server.requests) == 4


async def test_a_call_in_the_queue_of_a_server_that_somebody_else_runs():
    props = {"total_slots": 1, "default_generation_settings": {"n_ctx": 512}, "chat_template": "{{ messages }}"}
    async with StubServer(reply=faults.silent(False), side={"/props": props}) as server:
        service = LlamaCppService(
            MinerConfig(_env_file=None, llamacpp_api_base=server.url, default_model="m", max_retries=3)
        )
        running = asyncio.create_task(service.generate("hi"))
        await server.wait_for_requests(1, "/v1/chat/completions")
        waiting = [
            asyncio.create_task(service.generate("hi")),
            asyncio.create_task(read(service.stream("hi"))),  # type: ignore[arg-type]
            asyncio.create_task(service.count_tokens("hi")),
            asyncio.create_task(service.embed("hi")),
        ]
        await closed_at_once(service, running, *waiting)
        await asyncio.sleep(0.2)
        assert len(server.generations) == 1


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_stream_between_two_reads(engine: str):
    """The engine's slot is free at once; whoever reads on learns why it ended."""
    async with Faulty(faults.silent_in_stream(("a", "b", "c"))) as server:
        service = service_at(engine, server.url, default_model="smollm2", max_retries=5)
        streams = [service.stream("hi") for _ in range(3)]
        batches = streams[0].batches()
        await anext(batches)
        iterator = aiter(streams[1])
        await anext(iterator)
        await anext(streams[2])
        await service.aclose()
        await server.wait_for_disconnects(3)
        for source in (batches, iterator, streams[2]):
            with pytest.raises(ServiceClosedError):
                await anext(source)
            with pytest.raises(StopAsyncIteration):
                await anext(source)
        assert len(server.generations) == 3
    await nothing_left()


async def test_many_prompts_end_with_their_service():
    async with Silent() as server:
        service = service_at("vllm", server.url, default_model="smollm2", max_retries=5)
        pairs: list[Any] = []

        async def reading() -> None:
            async for pair in service.generate_many((f"prompt {n}" for n in range(100)), concurrency=3):
                pairs.append(pair)  # noqa: PERF401  (what came before the error counts)

        task = asyncio.create_task(reading())
        await server.until_held(3)
        await closed_at_once(service, task)
        await asyncio.sleep(0.2)
        assert len(server.posts) == 3
        assert [type(error) for _, error in pairs] == [ServiceClosedError] * 3


@pytest.mark.parametrize("verb", ["generate", "stream", "embed", "count_tokens"])
async def test_fallbacks_are_not_used_instead(verb: str):
    async with Silent() as first, Silent() as second:
        config = settings(
            default_model="smollm2", max_retries=5, vllm_api_base=first.v1, ollama_base_url=second.url,
        )  # fmt: skip
        service = FallbackService(
            config, service_at("vllm", first.url, default_model="smollm2"), ["ollama"], lambda _: OllamaService(config)
        )
        task = asyncio.create_task(VERBS[verb](service))  # type: ignore[arg-type]
        await first.until_held()
        await closed_at_once(service, task)
        assert (len(first.posts), second.requests) == (1, [])


class Own(LLMService):
    """A backend of somebody else's, with a transport of its own and an `aclose` that calls nobody's."""

    sent = 0
    ended = 0

    async def generate(self, prompt, model, max_tokens, temperature, top_p):
        self.sent += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.ended += 1

    async def _get_model(self, model_name):
        return ModelInfo(id=model_name)

    async def aclose(self):
        pass


@pytest.mark.parametrize("verb", ["generate", "chat", "stream"])
async def test_a_third_party_backend(verb: str):
    service = Own(settings(max_retries=5))
    task = asyncio.create_task(VERBS[verb](service))  # type: ignore[arg-type]
    await closed_at_once(service, task)
    assert (service.sent, service.ended) == (1, 1)


async def test_a_task_that_is_cancelled_at_the_same_time_is_cancelled():
    async with Silent() as server, speaking_to("vllm", server, default_model="smollm2") as service:
        task = asyncio.create_task(service.generate("hi"))
        await server.until_held()
        task.cancel()
        await service.aclose()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_time_out_around_it_still_holds():
    async with Silent() as server, speaking_to("vllm", server, default_model="smollm2") as service:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await service.generate("hi")


async def test_settings_that_change_leave_alone_what_runs():
    """Another address or key is for the requests that come; those in flight end where they are."""
    async with (
        Faulty(faults.slow(0.5)) as first,
        Faulty(faults.ok(["second"])) as second,
        speaking_to("ollama", first, default_model="smollm2") as service,
    ):
        running = asyncio.create_task(service.generate("hi"))
        await first.wait_for_requests(1, "/api/chat")
        service.config.ollama_base_url = second.url
        assert await service.generate("hi") == "second"
        assert await running == "Hello there."
