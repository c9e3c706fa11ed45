"""What the driver does for every backend: formats checked before a success, bounds, what an error keeps, timings."""

from __future__ import annotations

import asyncio
import dataclasses
import pickle
from typing import Any

import msgspec
import pydantic
import pytest

from miner.core.llms.LLMService import LLMService
from miner.core.wire import LLMChunk, LLMResponse, TokenUsage
from miner.errors import BackendTimeoutError, OutputValidationError, StreamInterruptedError
from tests.core.llms.contract.test_failures import MODES, Faulty
from tests.core.services import ENGINES, MESSAGES, read, service_at, settings, speaking_to
from tests.servers import faults
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import delta, finish, usage_chunk
from tests.servers.ports import closed_port
from tests.servers.replay import ReplayServer

PARIS = '{"city": "Paris", "population": 2}'
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "population": {"type": "integer"}},
    "required": ["city", "population"],
}


class City(pydantic.BaseModel):
    city: str
    population: int


class StructCity(msgspec.Struct):
    city: str
    population: int


@dataclasses.dataclass
class DataCity:
    city: str
    population: int


async def replied(service: LLMService, mode: str, **options: Any) -> LLMResponse:
    if mode == "call":
        return await service.chat_completion(MESSAGES, **options)
    return await service.stream(messages=MESSAGES, **options).collect()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ENGINES)
async def test_what_was_asked_for_comes_parsed(engine: str, mode: str):
    async with StubServer(reply=PARIS) as server, speaking_to(engine, server) as service:
        for kind, value in (
            (City, City(city="Paris", population=2)),
            (StructCity, StructCity("Paris", 2)),
            (DataCity, DataCity("Paris", 2)),
            (SCHEMA, {"city": "Paris", "population": 2}),
            ({"type": "json_object"}, {"city": "Paris", "population": 2}),
        ):
            response = await replied(service, mode, response_format=kind)
            assert response.parsed == value
            assert response.content == PARIS
        sent = server.bodies[0]
        schema = sent["format"] if engine == "ollama" else sent["response_format"]["json_schema"]["schema"]
        assert set(schema["properties"]) == {"city", "population"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("text", "words"), [("Paris.", "is not JSON"), ('{"city": "Paris"}', "violates the schema"), ("[]", "violates")]
)
async def test_what_breaks_the_format_is_no_success(engine: str, mode: str, text: str, words: str):
    async with StubServer(reply=text) as server, speaking_to(engine, server) as service:
        with pytest.raises(OutputValidationError, match=words) as caught:
            await replied(service, mode, response_format=SCHEMA)
        assert caught.value.response.content == text
        assert caught.value.backend == engine
        assert pickle.loads(pickle.dumps(caught.value)).response.content == text
        with pytest.raises(OutputValidationError):
            await service.generate("hi", response_format=SCHEMA)


async def test_a_stream_delivers_its_text_before_it_is_found_wrong():
    async with StubServer(reply="no JSON") as server, speaking_to("ollama", server) as service:
        pieces: list[str] = []

        async def gather() -> None:
            async for chunk in service.stream("hi", response_format=SCHEMA):
                pieces.append(chunk.content or "")
                assert chunk.finish_reason is None, "no reply that breaks its format ends well"

        with pytest.raises(OutputValidationError):
            await gather()
        assert "".join(pieces) == "no JSON"


@pytest.mark.parametrize("name", ["chat_schema", "chat_schema_stream"])
async def test_a_recorded_truncated_response_is_reported(name: str):
    """VLLM's recording ran into max_tokens in the middle of a number."""
    mode = "stream" if "stream" in name else "call"
    async with ReplayServer("vllm") as server, speaking_to("vllm", server) as service:
        server.respond_with(name)
        with pytest.raises(OutputValidationError, match=r"max_tokens was reached \(64 tokens\)") as caught:
            await replied(service, mode, response_format=SCHEMA, max_tokens=64)
        assert caught.value.response.finish_reason == "length"
    async with ReplayServer("ollama") as server, speaking_to("ollama", server, default_model="smollm2") as service:
        server.respond_with(name)
        response = await replied(service, mode, response_format=SCHEMA, max_tokens=64)
        assert response.parsed["city"] == "Paris"


@pytest.mark.parametrize("mode", MODES)
async def test_a_regular_expression_on_vllm(mode: str):
    async with StubServer(reply="yes") as server, speaking_to("vllm", server) as service:
        response = await replied(service, mode, response_format={"type": "regex", "regex": "yes|no"})
        assert (response.content, response.parsed) == ("yes", None)
        with pytest.raises(OutputValidationError, match="does not match"):
            await replied(service, mode, response_format={"type": "regex", "regex": "no"})


@pytest.mark.parametrize("engine", ENGINES)
async def test_timeouts_of_tokens_hold_without_streaming_too(engine: str):
    """`first` and `between` are observed on the stream that is drained."""
    async with StubServer(reply=PARIS) as server, speaking_to(engine, server) as service:
        plain = await service.chat_completion(MESSAGES, response_format=City)
        bound = await service.chat_completion(MESSAGES, response_format=City, timeout={"first": 30, "between": 30})
        assert (bound.content, bound.parsed, bound.usage, bound.finish_reason, bound.backend, bound.model) == (
            plain.content, plain.parsed, plain.usage, plain.finish_reason, plain.backend, plain.model,
        )  # fmt: skip
        assert [body.get("stream", False) for body in server.bodies] == [True, True]
        assert bound.timings.time_to_first_token is not None


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_non_streaming_response_whose_tokens_stop_keeps_what_had_come(engine: str):
    async with (
        Faulty(faults.silent_in_stream()) as server,
        speaking_to(engine, server, default_model="smollm2") as service,
    ):
        with pytest.raises(BackendTimeoutError, match=r"exceeded timeout\.between") as caught:
            await service.chat_completion(MESSAGES, timeout={"between": 0.2})
        assert caught.value.partial.content == "Hello there."
        assert caught.value.partial.model is not None
        await server.wait_for_disconnects()


async def test_an_interrupted_stream_keeps_all_kinds_of_things():
    logprob = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
    event = delta(content="a", reasoning="hm")
    event["choices"][0]["logprobs"] = {"content": [logprob]}
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x'}}
    events = [event, delta(tool_calls=[call]), {"error": {"message": "EngineCore died", "type": "x", "code": 500}}]
    async with StubServer(reply=events) as server, speaking_to("vllm", server) as service:
        with pytest.raises(StreamInterruptedError) as caught:
            await service.stream("hi", logprobs=True).collect()
    partial = caught.value.partial
    assert (partial.content, partial.reasoning, partial.finish_reason) == ("a", "hm", None)
    assert partial.logprobs[0].token == "a"
    assert partial.tool_calls[0]["function"] == {"name": "f", "arguments": '{"x'}
    assert pickle.loads(pickle.dumps(caught.value)).partial == partial


class Streaming(LLMService):
    """A backend by hooks that only streams."""

    async def _stream(self, request: Any) -> Any:
        for text in ("a", "b"):
            yield [LLMChunk(content=text)]
        yield [LLMChunk(finish_reason="stop", usage=TokenUsage(1, 2, 3))]


async def test_a_backend_that_only_streams_has_non_streaming_responses_too():
    service = Streaming(settings())
    assert await service.generate("hi") == "ab"
    response = await service.chat_completion(MESSAGES)
    assert (response.content, response.finish_reason, response.usage.total_tokens) == ("ab", "stop", 3)
    assert [chunk.content for chunk in await read(service.stream("hi"))] == ["a", "b", None]


class Answering(LLMService):
    """A backend by hooks that has only `_chat`."""

    async def _chat(self, request: Any) -> LLMResponse:
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        return LLMResponse(content="ab", reasoning="hm", tool_calls=[call], finish_reason="tool_calls", model="m",
                           usage=TokenUsage(1, 2, 3), context_exhausted=False)  # fmt: skip


async def test_a_backend_without_a_stream_streams_one_chunk():
    service = Answering(settings())
    whole = await service.chat_completion(MESSAGES)
    joined = await service.stream(messages=MESSAGES).collect()
    for name in ("content", "reasoning", "tool_calls", "finish_reason", "usage"):
        assert getattr(joined, name) == getattr(whole, name), name


@pytest.mark.parametrize("engine", ENGINES)
async def test_timings(engine: str):
    async with (
        Faulty(faults.slow(0.2, between=0.02)) as server,
        speaking_to(engine, server, default_model="smollm2") as service,
    ):
        response = await service.chat_completion(MESSAGES)
        assert response.timings.total is not None
        assert response.timings.total >= 0.2
        streamed = await service.stream("hi").collect()
        assert streamed.timings.time_to_first_token is not None
        assert streamed.timings.time_to_first_token >= 0.2
        assert streamed.timings.total is not None
        assert streamed.timings.total > streamed.timings.time_to_first_token


@pytest.mark.parametrize("engine", ENGINES)
async def test_requests_at_once_run_at_once(engine: str):
    """No lock around the engine: all of them are there before any is answered."""
    everybody = asyncio.Event()

    async def reply(body: dict[str, Any]) -> str:
        if len(server.bodies) == 16:
            everybody.set()
        await everybody.wait()
        return "Hello there."

    async with StubServer(reply=reply) as server, speaking_to(engine, server) as service:
        async with asyncio.timeout(30):
            texts = await asyncio.gather(
                *(service.generate("hi") for _ in range(8)),
                *(service.stream("hi").collect() for _ in range(8)),
            )
        assert {str(text) for text in texts} == {"Hello there."}


async def test_an_engine_that_refuses_while_it_loads_is_not_healthy_and_then_it_is():
    """The port of vLLM opens only when the model is loaded."""
    port = closed_port()
    service = service_at("vllm", f"http://127.0.0.1:{port}")
    assert not await service.health_check()
    health = await service.health()
    assert "connection refused" in (health.reason or "")
    assert "A model takes minutes to load" in (health.hint or "")
    server = StubServer()
    server.port = port
    async with server:
        assert await service.health_check()
        assert await service.generate("hi") == "Hello there."
        await service.aclose()


async def test_usage_of_a_stream_comes_last_and_equals_the_non_streaming_one():
    events = [delta(content="a"), finish(), usage_chunk(3, 2)]
    async with StubServer(reply=events) as server, speaking_to("vllm", server) as service:
        chunks = await read(service.stream("hi"))
    assert [chunk.usage for chunk in chunks] == [None, None, TokenUsage(3, 2, 5)]
