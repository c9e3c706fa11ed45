"""How replies end: what engines say of it and of their tokens, and that nothing else is made of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from miner.core.llms.ollama.response import is_repetition
from miner.core.wire import LLMResponse, TokenUsage
from miner.errors import StreamInterruptedError
from tests.core.llms.contract.test_failures import MODES
from tests.core.services import ENGINES, MESSAGES, WEATHER, speaking_to
from tests.servers.http import Exchange, RawServer
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import delta, finish, frames, openai_chunk, side_routes, usage, usage_chunk
from tests.servers.replay import ReplayServer


async def respond(service: Any, mode: str, **options: Any) -> LLMResponse:
    if mode == "call":
        return await service.chat_completion(MESSAGES, **options)
    return await service.stream(messages=MESSAGES, **options).collect()


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "message": {"role": "assistant", "content": text}, "done": False, **more}


def ended(reason: str) -> dict[str, Any]:
    return said("", done=True, done_reason=reason, eval_count=2, prompt_eval_count=3)


class Slow(RawServer):
    """Writes a word every 0.12 s, so that a whole reply takes longer than any wait for bytes may."""

    async def handle(self, exchange: Exchange) -> None:
        request = exchange.request
        side = side_routes(request, ["m"])
        if side is not None or request.method == "GET":
            await exchange.respond(200 if side is not None else 405, side or {})
            return
        if not request.streams:
            await asyncio.sleep(1.2)
            await exchange.respond(200, {})
            return
        await exchange.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        for piece in frames(request, ["one ", "two ", "three ", "four ", "five"]):
            await asyncio.sleep(0.12)
            await exchange.piece(piece)
        await exchange.end()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ENGINES)
async def test_a_reply_may_take_longer_than_the_read_timeout(engine: str, mode: str):
    """The setting bounds the wait for the next bytes, and nothing else."""
    async with Slow() as server, speaking_to(engine, server, timeout=0.5) as service:
        assert (await respond(service, mode, model="m")).content == "one two three four five"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("said_usage", ["none", "null", "zeros"])
async def test_where_a_server_sends_no_usage_there_is_none(said_usage: str, mode: str):
    more = {"none": [], "null": [openai_chunk([], usage=None)], "zeros": [openai_chunk([], usage=usage(0, 0))]}
    events = [delta(content="Hello"), finish(), *more[said_usage]]
    async with StubServer(reply=events) as server, speaking_to("vllm", server) as service:
        response = await respond(service, mode)
    assert (response.content, response.finish_reason, response.usage) == ("Hello", "stop", None)
    assert response.timings.total is not None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tools", [None, [WEATHER]])
async def test_usage_in_every_chunk_is_told_once(tools: Any, mode: str):
    """VLLM's --enable-force-include-usage and continuous_usage_stats; its tool parser delivers nothing for long."""
    silent = [delta(role="assistant", content="") | {"usage": usage(21, count)} for count in range(1, 14)]
    events = [
        *silent, delta(content="Hel") | {"usage": usage(21, 14)}, delta(content="lo") | {"usage": usage(21, 15)},
        finish() | {"usage": usage(21, 16)}, usage_chunk(21, 16),
    ]  # fmt: skip
    async with StubServer(reply=events) as server, speaking_to("vllm", server) as service:
        response = await respond(service, mode, tools=tools)
        assert (response.content, response.finish_reason) == ("Hello", "stop")
        assert response.usage == TokenUsage(21, 16, 37)
        chunks = [chunk async for chunk in service.stream("hi")]
        assert [chunk.usage is not None for chunk in chunks] == [False, False, False, True]


@pytest.mark.parametrize("mode", MODES)
async def test_usage_that_comes_before_the_end_counts(mode: str):
    events = [delta(content="Hello"), finish() | {"usage": usage(21, 2)}]
    async with StubServer(reply=events) as server, speaking_to("vllm", server) as service:
        assert (await respond(service, mode)).usage == TokenUsage(21, 2, 23)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("repetition", "repetition"),
        ("eos_token", "unknown"),
        ("error", "unknown"),
        ("content_filter", "content_filter"),
    ],
)
async def test_only_a_stop_is_called_stop(
    word: str, reason: str, mode: str, caplog: pytest.LogCaptureFixture
):  # fmt: skip
    events = [delta(content="Hello"), finish(word), usage_chunk(21, 2)]
    async with StubServer(reply=events) as server, speaking_to("vllm", server) as service:
        response = await respond(service, mode)
    assert (response.finish_reason, response.context_exhausted) == (reason, False)
    assert (repr(word) in caplog.text) == (reason == "unknown")


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
        server.answer(name, split=split)
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
