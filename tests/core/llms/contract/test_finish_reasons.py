"""Finish reasons and token counts: those of the engines, and no others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from miner.core.wire import LLMResponse, TokenUsage
from tests.core.llms.contract.test_failures import MODES
from tests.core.services import ENGINES, MESSAGES, WEATHER, speaking_to
from tests.servers.http import RawServer, ResponseWriter
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import delta, finish, frames, openai_chunk, side_routes, usage, usage_chunk


async def respond(service: Any, mode: str, **options: Any) -> LLMResponse:
    if mode == "call":
        return await service.chat_completion(MESSAGES, **options)
    return await service.stream(messages=MESSAGES, **options).collect()


class Slow(RawServer):
    """Writes a word every 0.3 s, so that a whole reply takes longer than any wait for bytes may."""

    async def handle(self, writer: ResponseWriter) -> None:
        request = writer.request
        side = side_routes(request, ["m"])
        if side is not None or request.method == "GET":
            await writer.respond(200 if side is not None else 405, side or {})
            return
        if not request.streams:
            await asyncio.sleep(5)
            await writer.respond(200, {})
            return
        await writer.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        for piece in frames(request, ["one ", "two ", "three ", "four ", "five"]):
            await asyncio.sleep(0.3)
            await writer.piece(piece)
        await writer.end()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ENGINES)
async def test_a_reply_may_take_longer_than_the_read_timeout(engine: str, mode: str):
    """The setting bounds the wait for the next bytes, and nothing else."""
    async with Slow() as server, speaking_to(engine, server, timeout=1.4) as service:
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
async def test_usage_in_every_chunk_is_reported_once(tools: Any, mode: str):
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
