"""Ollama's streamed and non-streaming replies, as chunks and responses."""

from __future__ import annotations

from typing import Any

import pytest

from miner.core.llms.ollama.response import is_repetition
from miner.core.wire import TokenLogprob
from miner.errors import (
    OutputValidationError,
    StreamInterruptedError,
)
from tests.core.llms.contract.test_failures import MODES
from tests.core.llms.contract.test_finish_reasons import respond
from tests.core.services import MESSAGES, WEATHER, read, speaking_to
from tests.servers.openai_stub import StubServer
from tests.servers.replay import ReplayServer


def ollama(server: Any, **given: Any) -> Any:
    return speaking_to("ollama", server, **given)


REPLIES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("chat", {}, {"content": "The capital of France is Paris.", "finish_reason": "stop"}),
    ("chat_stream", {}, {"content": "The capital of France is Paris.", "finish_reason": "stop"}),
    ("chat_length_stream", {"max_tokens": 3}, {"finish_reason": "length", "context_exhausted": False}),
    ("context_exhausted_shift_false", {"max_tokens": 600}, {"finish_reason": "length", "context_exhausted": True}),
    ("context_exhausted_shift_false_stream", {"max_tokens": 600}, {"finish_reason": "length",
                                                                    "context_exhausted": True}),
    ("chat_stop_stream", {"stop": "Par"}, {"content": "The capital of France is ", "finish_reason": "stop"}),
    ("chat_think", {"model": "smollm2-think"}, {"content": "", "reasoning": "The capital of France is Paris."}),
    ("chat_think_stream", {"model": "smollm2-think"}, {"content": "", "reasoning": "The capital of France is Paris."}),
    ("chat_tools", {"model": "smollm2-tools", "tools": [WEATHER]}, {"content": "", "finish_reason": "tool_calls"}),
    ("chat_tools_stream", {"model": "smollm2-tools", "tools": [WEATHER]}, {"finish_reason": "tool_calls"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "fields"), REPLIES, ids=[name for name, _, _ in REPLIES])
async def test_recorded_replies(name: str, options: dict[str, Any], fields: dict[str, Any]):
    async with ReplayServer("ollama") as server, ollama(server, default_model="smollm2") as service:
        server.respond_with(name)
        given = {"messages": MESSAGES, **options}
        response = await (service.stream(**given).collect() if "stream" in name
                          else service.chat_completion(given.pop("messages"), **given))  # fmt: skip
        assert {field: getattr(response, field) for field in fields} == fields
        assert response.usage.prompt_tokens > 0
        assert response.usage.total_tokens == response.usage.prompt_tokens + response.usage.completion_tokens
        assert response.timings.prefill is not None
        assert 0 < response.timings.prefill < 10
        assert response.timings.decode is not None
        assert response.backend == "ollama"


@pytest.mark.parametrize("name", ["chat_tools_parallel", "chat_tools_parallel_stream"])
async def test_parallel_calls_come_whole_with_their_indices(name: str):
    async with ReplayServer("ollama") as server, ollama(server) as service:
        server.respond_with(name, times=2)
        given: dict[str, Any] = {"model": "smollm2-tools", "tools": [WEATHER]}
        for one in (False, True):
            options = given | ({"parallel_tool_calls": False} if one else {})
            response = await (service.stream(messages=MESSAGES, **options).collect() if "stream" in name
                              else service.chat_completion(MESSAGES, **options))  # fmt: skip
            assert [call["function"] for call in response.tool_calls] == [
                {"name": "get_weather", "arguments": '{"city":"New York"}'}
            ] * (1 if one else 2)
            assert all(call["id"].startswith("call_") and call["type"] == "function" for call in response.tool_calls)
            assert response.finish_reason == "tool_calls"


@pytest.mark.parametrize("name", ["chat_logprobs", "chat_logprobs_stream"])
async def test_recorded_logprobs(name: str):
    async with ReplayServer("ollama") as server, ollama(server, default_model="smollm2") as service:
        server.respond_with(name)
        request = {"logprobs": 2, "max_tokens": 4}
        response = await (service.stream("hi", **request).collect() if "stream" in name
                          else service.chat_completion(MESSAGES, **request))  # fmt: skip
        assert response.logprobs is not None
        assert len(response.logprobs) == response.usage.completion_tokens
        assert "".join(entry.token for entry in response.logprobs) == response.content
        first = response.logprobs[0]
        assert isinstance(first, TokenLogprob)
        assert bytes(first.bytes or ()).decode() == first.token
        assert len(first.alternatives) == 2


def line(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "created_at": "2026-11-22T00:00:00Z", **fields}


def said(text: str, **fields: Any) -> dict[str, Any]:
    return line(message={"role": "assistant", "content": text, **fields}, done=False)


async def test_text_and_calls_on_the_last_line_are_not_lost():
    """Protocol notes, 3.2: with native templates the calls ride on the `done:true` line."""
    calls = [{"function": {"name": "get_weather", "arguments": {"city": "Rome"}}}]
    last = line(message={"role": "assistant", "content": "Done.", "tool_calls": calls}, done=True, done_reason="stop",
                eval_count=3)  # fmt: skip
    async with StubServer(reply=[said("Well. "), last]) as server, ollama(server) as service:
        response = await service.stream("hi", tools=[WEATHER]).collect()
    assert response.content == "Well. Done."
    assert [call["function"]["arguments"] for call in response.tool_calls or ()] == ['{"city":"Rome"}']
    assert (response.tool_calls or [])[0]["id"]
    assert response.finish_reason == "tool_calls"


async def test_counts_of_zero_are_left_out_on_the_wire():
    """Absent counts are not zeros."""
    async with StubServer(reply=[said("a"), line(done=True)]) as server, ollama(server) as service:
        response = await service.stream("hi").collect()
    assert (response.content, response.finish_reason, response.usage) == ("a", "stop", None)


async def test_lines_that_say_nothing_are_no_chunks():
    lines = [said(""), said("a"), b"\n", said("", tool_calls=[]), line(done=True, eval_count=1)]
    async with StubServer(reply=lambda _: list(lines)) as server, ollama(server) as service:
        chunks = await read(service.stream("hi"))
    assert [(chunk.content, chunk.finish_reason) for chunk in chunks] == [("a", None), (None, "stop")]


@pytest.mark.parametrize("mode", MODES)
async def test_a_call_of_a_tool_that_was_not_offered_is_no_success(mode: str):
    calls = [{"id": "x", "function": {"name": "get_time", "arguments": {}}}]
    last = line(message={"role": "assistant", "content": "", "tool_calls": calls}, done=True, done_reason="stop")
    async with StubServer(reply=lambda body: [last] if body["stream"] else last) as server, ollama(server) as service:
        with pytest.raises(OutputValidationError, match="a tool 'get_time' that is not in tools"):
            await (service.chat_completion(MESSAGES, tools=[WEATHER]) if mode == "call"
                   else service.stream(messages=MESSAGES, tools=[WEATHER]).collect())  # fmt: skip


def ended(reason: str) -> dict[str, Any]:
    return said("") | {"done": True, "done_reason": reason, "eval_count": 2, "prompt_eval_count": 3}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("word", "reason"), [("stop", "stop"), ("length", "length"), ("harmony_gave_up", "unknown")])
async def test_ollamas_words(word: str, reason: str, mode: str):
    async with StubServer(reply=[said("a"), ended(word)]) as server, speaking_to("ollama", server) as service:
        assert (await respond(service, mode)).finish_reason == reason


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["chat_repetition", "chat_repetition_stream"])
@pytest.mark.parametrize("split", [None, 7])
async def test_a_model_that_repeats_itself_is_a_reply(name: str, split: int | None, mode: str):
    async with ReplayServer("ollama") as server, speaking_to("ollama", server, default_model="smollm2") as service:
        server.respond_with(name, split=split)
        response = await respond(service, mode)
    assert response.content == "🌟" + "🌍" * 31
    assert (response.finish_reason, response.usage) == ("repetition", None)


@pytest.mark.parametrize("mode", MODES)
async def test_other_replies_without_a_last_line_broke_off(mode: str):
    texts = [["The", " capital", " of"], ["a", "b"] * 40, ["x"] * 40 + ["y"], ["word"] * 12]
    async with StubServer() as server, speaking_to("ollama", server) as service:
        for pieces in texts:
            server.reply = [said(piece) for piece in pieces]
            with pytest.raises(StreamInterruptedError) as caught:
                await respond(service, mode)
            assert caught.value.partial.content == "".join(pieces)


def test_what_a_run_is():
    assert is_repetition(["a", *["b"] * 30])
    assert is_repetition(["a", *[" \n", "  "] * 15])
    assert is_repetition([" go", "go "] * 15)
    assert is_repetition(["so it goes " + "on and " * 30])
    assert not is_repetition([])
    assert not is_repetition(["b"] * 29)
    assert not is_repetition([*["b"] * 40, "c"])
    assert not is_repetition(["a text that says this and that " * 3])
