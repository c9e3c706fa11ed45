"""Joined chunks equal the whole reply, whatever the chunking: proved on recordings of each engine."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.core.http.errors import Upstream
from miner.core.llms.contract.join import join
from miner.core.llms.contract.resolution import resolve
from miner.core.llms.llm_ollama import OllamaService
from miner.core.llms.LLMService import LLMService
from miner.core.llms.ollama.response import read_lines
from miner.core.llms.openai.service import OpenAIService
from miner.core.wire import ChatRequest, LLMChunk, LLMResponse, ToolCall
from miner.errors import BackendError
from tests.core import services
from tests.core.services import MESSAGES, WEATHER, speaking_to
from tests.servers.captures import Capture, capture, captures
from tests.servers.replay import ReplayServer

PAIRS = [
    ("vllm", "chat_stream", "chat"),
    ("vllm", "chat_logprobs_stream", "chat_logprobs"),
    ("vllm", "chat_schema_stream", "chat_schema"),
    ("vllm", "chat_tools_required_stream", "chat_tools_required"),
    ("vllm", "completion_stream", "completion"),
    ("llamacpp", "chat_stream", "chat"),
    ("llamacpp", "chat_logprobs_stream", "chat_logprobs"),
    ("llamacpp", "chat_schema_stream", "chat_schema"),
    ("llamacpp", "completion_stream", "completion"),
    ("ollama", "chat_stream", "chat"),
    ("ollama", "chat_logprobs_stream", "chat_logprobs"),
    ("ollama", "chat_schema_stream", "chat_schema"),
    ("ollama", "chat_tools_stream", "chat_tools"),
    ("ollama", "chat_tools_parallel_stream", "chat_tools_parallel"),
    ("ollama", "chat_think_stream", "chat_think"),
    ("ollama", "generate_stream", "generate"),
    ("ollama", "generate_raw_stream", "generate_raw"),
    ("ollama", "context_exhausted_shift_false_stream", "context_exhausted_shift_false"),
]
"""The same request at temperature 0, streamed and whole."""

STREAMS = [
    item
    for engine in ("vllm", "llamacpp", "ollama")
    for item in captures(engine).values()
    if item.status == 200
    and item.path in ("/v1/chat/completions", "/v1/completions", "/api/chat", "/api/generate")
    and len(item.pieces) > 1
    and (engine != "ollama" or item.path.startswith("/api/"))
    and item.name != "overflow_generate_default"
]


class Pieces:
    """Stands in for a ByteStream."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter([piece for piece in pieces if piece])

    async def read_some(self) -> bytes:
        return next(self._pieces, b"")


READERS: dict[str, Any] = {engine: kind(services.settings()) for engine, kind in services.KINDS.items()}


def request_of(item: Capture) -> ChatRequest:
    sent = item.request
    most = sent.get("max_tokens") or sent.get("options", {}).get("num_predict", 512)
    names = {"logprobs": sent.get("top_logprobs")} if sent.get("logprobs") is True else {}
    return ChatRequest(max_tokens=most, temperature=0, top_p=1, progress=True, **names)


async def joined(item: Capture, pieces: Iterable[bytes]) -> tuple[LLMResponse, str | None]:
    """The reply in these pieces through the service's own reading of streams, and the error that ended it."""
    service = READERS[item.engine]
    upstream = Upstream(item.engine, "http://h:1")
    source: Any = Pieces(pieces)
    reading = read_lines if isinstance(service, OllamaService) else service._read_events
    batches: list[list[LLMChunk]] = []
    try:
        async with aclosing(reading(source, request_of(item), upstream)) as stream:
            async for batch in stream:
                batches.append(batch)  # noqa: PERF401
    except BackendError as error:
        return join(batches), f"{type(error).__name__}: {error}"
    return join(batches), None


def without_ids(calls: list[ToolCall] | None) -> list[ToolCall] | None:
    return [{**call, "id": bool(call["id"])} for call in calls] if calls else calls


def options_of(engine: str, name: str) -> dict[str, Any]:
    """What makes the service accept the recorded reply as one to its own request."""
    options: dict[str, Any] = {"max_tokens": request_of(capture(engine, name)).max_tokens, "model": "smollm2"}
    if "logprobs" in name:
        options["logprobs"] = 2
    if "think" in name:
        options["model"] = "smollm2-think"
    if "tools" in name:
        options |= {"tools": [WEATHER], "model": "smollm2-tools" if engine == "ollama" else "smollm2"}
    if name.startswith(("completion", "generate")):
        return options | {"raw": True, "prompt": "hi"}
    return options | {"messages": MESSAGES}


async def request_for(service: LLMService, engine: str, name: str) -> ChatRequest:
    """What the service would ask in the place of the recorded request, found honourable."""
    given = options_of(engine, name)
    options = {option: given.pop(option) for option in ("raw", "logprobs") if option in given}
    request = service._request(options, **given)
    return await resolve(service, request)


@pytest.mark.parametrize(("engine", "streamed", "whole"), PAIRS)
async def test_a_recorded_stream_joins_to_the_recorded_whole_reply(engine: str, streamed: str, whole: str):
    # Through the hooks: the check of arguments against JSON comes after, and one recording does not pass it.
    async with ReplayServer(engine, check_spec=False) as server, speaking_to(engine, server) as service:
        server.respond_with(streamed)
        asked = await request_for(service, engine, streamed)
        one = join([batch async for batch in service._stream(asked)])
        server.respond_with(whole)
        whole_reply = OpenAIService._chat if isinstance(service, OpenAIService) else type(service)._chat
        other = await whole_reply(service, asked)  # vLLM's own drains a stream where there are tools
    assert one.content == other.content
    assert one.reasoning == other.reasoning
    assert without_ids(one.tool_calls) == without_ids(other.tool_calls)
    assert one.logprobs == other.logprobs
    assert ("logprobs" in streamed) == (one.logprobs is not None)
    assert one.finish_reason == other.finish_reason
    assert one.context_exhausted == other.context_exhausted
    same = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [getattr(one.usage, name) for name in same] == [getattr(other.usage, name) for name in same]
    assert one.usage.completion_tokens > 0
    assert one.content or one.tool_calls or one.reasoning


def test_the_recordings_hold_all_that_must_join():
    names = " ".join(f"{item.engine}/{item.name}" for item in STREAMS)
    for engine in ("vllm", "llamacpp", "ollama"):
        for kind in ("chat_stream", "stop", "logprobs", "tools", "schema", "utf8", "cut_stream"):
            assert any(name.startswith(engine) and kind in name for name in names.split()), (engine, kind)
    for rare in ("parallel", "think", "length", "exhausted", "fault_runner_killed", "progress"):
        assert rare in names


@pytest.mark.parametrize("item", STREAMS, ids=lambda item: f"{item.engine}-{item.name}")
async def test_a_stream_read_byte_by_byte_joins_to_the_same(item: Capture):
    body = item.body
    whole = await joined(item, [body])
    assert await joined(item, item.pieces) == whole
    assert await joined(item, (body[at : at + 1] for at in range(len(body)))) == whole


SWEPT = [
    item
    for item in STREAMS
    if item.name
    in (
        "chat_stream",
        "chat_tools_stream",
        "chat_tools_parallel_stream",
        "chat_think_stream",
        "chat_logprobs_stream",
        "chat_stop",
        "chat_stop_stream",
        "chat_length_stream",
    )
]


@pytest.mark.parametrize("item", SWEPT, ids=lambda item: f"{item.engine}-{item.name}")
async def test_a_stream_cut_in_two_at_every_byte_boundary_joins_to_the_same(item: Capture):
    body = item.body
    whole = await joined(item, [body])
    assert whole[1] is None
    for at in range(1, len(body)):
        assert await joined(item, [body[:at], body[at:]]) == whole, at


@settings(max_examples=60)
@given(data=st.data(), item=st.sampled_from(STREAMS))
async def test_a_stream_cut_at_random_joins_to_the_same(data: st.DataObject, item: Capture):
    places = sorted(data.draw(st.lists(st.integers(0, len(item.body)), max_size=30)))
    edges = [0, *places, len(item.body)]
    pieces = [item.body[start:end] for start, end in itertools.pairwise(edges)]
    assert await joined(item, pieces) == await joined(item, [item.body])


@pytest.mark.parametrize(
    ("engine", "name", "size"),
    [
        ("vllm", "chat_stream_utf8", 7),
        ("ollama", "chat_stream_utf8", 3),
        ("llamacpp", "chat_stream_utf8", 11),
        ("ollama", "chat_tools_parallel_stream", 1),
        ("vllm", "chat_tools_required_stream", 5),
    ],
)
async def test_small_pieces_over_a_real_socket_join_to_the_same(engine: str, name: str, size: int):
    async with ReplayServer(engine, check_spec=False) as server, speaking_to(engine, server) as service:
        server.respond_with(name)
        server.respond_with(name, split=size)
        request = await request_for(service, engine, name)
        once = join([batch async for batch in service._stream(request)])
        again = join([batch async for batch in service._stream(request)])
        assert again == once
        assert once.content or once.tool_calls


@pytest.mark.parametrize("item", [item for item in STREAMS if not item.broken], ids=lambda i: f"{i.engine}-{i.name}")
async def test_a_stream_cut_off_anywhere_is_interrupted_and_keeps_what_had_come(item: Capture):
    """Whatever byte is the last one, with the connection closed in order: the same error, a prefix of the text."""
    whole, error = await joined(item, [item.body])
    if error is not None:
        assert item.name == "fault_runner_killed_stream"
        return
    body = item.body
    places = range(1, len(body) - 1) if len(body) < 1500 else range(1, len(body) - 1, len(body) // 300)
    lengths = set()
    for at in places:
        partial, error = await joined(item, [body[:at]])
        if error is None:  # only what comes after the last word of the reply is missing
            assert item.engine == "ollama" or b"[DONE]" in body[:at]
            continue
        assert error.startswith(("StreamInterruptedError", "BackendProtocolError") if at < 40
                                else "StreamInterruptedError"), (at, error)  # fmt: skip
        assert whole.content.startswith(partial.content)
        lengths.add(len(partial.content) + len(partial.tool_calls or ()) + len(partial.reasoning or ""))
    assert len(lengths) > 1 or whole.usage.completion_tokens == 1


def test_joining_nothing_is_an_empty_reply_and_joining_into_one_keeps_what_it_knows():
    assert join([]) == LLMResponse()
    known = LLMResponse(model="m", backend="vllm", ignored=["seed"])
    assert join([[LLMChunk("a"), LLMChunk("b", finish_reason="stop")]], known) is known
    assert (known.content, known.model, known.backend, known.ignored) == ("ab", "m", "vllm", ["seed"])
