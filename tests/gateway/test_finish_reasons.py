"""How replies end, in each dialect: which stop string it was, reasons that an API has no word for, and no usage."""

from __future__ import annotations

import json
from typing import Any

import pytest

from miner.core._typing import override
from miner.core.llms.contract.stream import Batches
from miner.core.llms.LLMService import LLMService
from miner.core.wire import ChatRequest, EmbeddingResponse, LLMChunk, TokenUsage
from miner.core.wire import Embedding as Vector
from tests.gateway.serving import config, post, serving

USER = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": USER},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": USER, "max_tokens": 8},
    "/api/chat": {"messages": USER},
    "/api/generate": {"prompt": "hi"},
}


class Ending(LLMService):
    """A backend whose replies end as a test wants it."""

    name = "ending"
    capabilities = frozenset({"chat", "stop", "raw", "embeddings"})  # type: ignore[assignment]
    end = LLMChunk(finish_reason="stop")

    @override
    async def _stream(self, request: ChatRequest) -> Batches:
        yield [LLMChunk("Hello")]
        yield [LLMChunk(**{name: getattr(self.end, name) for name in self.end.__struct_fields__})]

    @override
    async def _embed(self, texts: list[str], model: str | None) -> EmbeddingResponse:
        return EmbeddingResponse(data=[Vector(index, [1.0]) for index in range(len(texts))])


async def told(end: LLMChunk, path: str, *, stream: bool, **more: Any) -> list[dict[str, Any]]:
    """The response, or the events of it."""
    service = Ending(config())
    service.end = end
    body = {"model": "m", "stream": stream, **BODIES[path], **more}
    async with serving(service) as served, post(served, body, path) as answer:
        text = await answer.text()
        assert answer.status == 200, text
    if not stream:
        return [json.loads(text)]
    lines = text.splitlines() if path.startswith("/api") else [x[6:] for x in text.splitlines() if x[:6] == "data: "]
    return [json.loads(line) for line in lines if line and line != "[DONE]"]


@pytest.mark.parametrize("stream", [False, True])
async def test_anthropics_clients_learn_which_stop_sequence_it_was(stream: bool):
    end = LLMChunk(finish_reason="stop", stop_sequence="END", usage=TokenUsage(3, 2, 5))
    said = await told(end, "/v1/messages", stream=stream, stop_sequences=["x", "END"])
    message = next(one["delta"] for one in said if one["type"] == "message_delta") if stream else said[0]
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "END")
    said = await told(LLMChunk(finish_reason="stop"), "/v1/messages", stream=stream, stop_sequences=["END"])
    message = next(one["delta"] for one in said if one["type"] == "message_delta") if stream else said[0]
    assert (message["stop_reason"], message["stop_sequence"]) == ("end_turn", None)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_context_is_reported_to_anthropics_clients(stream: bool):
    end = LLMChunk(finish_reason="length", context_exhausted=True)
    said = await told(end, "/v1/messages", stream=stream)
    message = next(one["delta"] for one in said if one["type"] == "message_delta") if stream else said[0]
    assert message["stop_reason"] == "model_context_window_exceeded"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("reason", ["repetition", "unknown"])
@pytest.mark.parametrize("path", BODIES)
async def test_no_other_end_is_called_a_normal_one(path: str, reason: str, stream: bool):
    events = await told(LLMChunk(finish_reason=reason), path, stream=stream)
    last = events[-2] if path == "/v1/messages" and stream else events[-1]  # before message_stop
    if path == "/v1/messages":
        assert (last["delta"] if stream else last)["stop_reason"] == "max_tokens"
    elif path == "/v1/responses":
        response = last["response"] if stream else last
        assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": reason})
        assert response["output"][0]["status"] == "incomplete"
    elif path.startswith("/api"):
        assert (last["done"], last["done_reason"]) == (True, reason)
    else:
        assert last["choices"][0]["finish_reason"] == reason


@pytest.mark.parametrize("path", BODIES)
async def test_no_usage_is_not_a_usage_of_zeros(path: str):
    (whole,) = await told(LLMChunk(finish_reason="stop"), path, stream=False)
    assert not any(name.endswith("_count") for name in whole)
    if path == "/v1/messages":  # the types of its clients want integers
        assert (whole["usage"]["input_tokens"], whole["usage"]["output_tokens"]) == (0, 0)
        return
    assert whole.get("usage") is None
    more = {"stream_options": {"include_usage": True}} if path.endswith("completions") else {}
    said = await told(LLMChunk(finish_reason="stop"), path, stream=True, **more)
    usages = [one.get("usage") or (one.get("response") or {}).get("usage") for one in said if path != "/api/generate"]
    assert not any(usages)
    assert not any(name.endswith("_count") for one in said for name in one)


async def test_several_replies_without_usage():
    (whole,) = await told(LLMChunk(finish_reason="stop"), "/v1/chat/completions", stream=False, n=2)
    assert (len(whole["choices"]), whole["usage"]) == (2, None)
    usage = TokenUsage(3, 2, 5)
    (whole,) = await told(LLMChunk(finish_reason="stop", usage=usage), "/v1/chat/completions", stream=False, n=2)
    counts = {name: count for name, count in whole["usage"].items() if isinstance(count, int)}
    assert counts == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


async def test_vectors_without_usage():
    service = Ending(config())
    async with serving(service) as served:
        async with post(served, {"model": "m", "input": "hi"}, "/v1/embeddings") as answer:
            assert (answer.status, (await answer.json())["usage"]) == (200, None)
        async with post(served, {"model": "m", "input": "hi"}, "/api/embed") as answer:
            assert (answer.status, "prompt_eval_count" in await answer.json()) == (200, False)


@pytest.mark.parametrize("pieces", [[], ["Hello"], ["Hello", " there"]], ids=len)
@pytest.mark.parametrize("last", [[], [LLMChunk(usage=TokenUsage(3, 2, 5))]], ids=["nothing", "usage"])
async def test_a_reply_whose_end_is_not_said_ends_the_same_in_a_stream(pieces: list[str], last: list[LLMChunk]):
    class Silent(Ending):
        @override
        async def _stream(self, request: ChatRequest) -> Batches:
            for piece in pieces:
                yield [LLMChunk(piece)]
            if last:
                yield last

    async with serving(Silent(config())) as served:
        for path, body in BODIES.items():
            said = {}
            for stream in (False, True):
                async with post(served, {"model": "m", "stream": stream, **body}, path) as answer:
                    assert answer.status == 200
                    said[stream] = await answer.text()
            reason, whole, events = reasons(path), said[False], said[True]
            assert reason in whole.replace(" ", "")
            assert events.count(reason) == 1
    service = Silent(config())
    chunks = [chunk async for chunk in service.stream("x")]
    assert chunks[-1].finish_reason == (await service.stream("x").collect()).finish_reason == "stop"


def reasons(path: str) -> str:
    """How a dialect says that the model stopped by itself."""
    if path.startswith("/api/"):
        return '"done_reason":"stop"'
    return {"/v1/messages": '"stop_reason":"end_turn"', "/v1/responses": '"status":"completed","error"'}.get(
        path, '"finish_reason":"stop"'
    )
