"""A prompt that is too long is recognised by the clients of each dialect, on every route."""

from __future__ import annotations

import json
import re

import aiohttp
import pytest

from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.core.llms.LLMService import LLMService
from miner.errors import ContextLengthError
from tests.gateway.serving import config, serving, vllm
from tests.servers.openai_stub import StubServer

HI = [{"role": "user", "content": "Hi"}]
CLIENTS = {
    "Claude Code": r"prompt is too long[^0-9]*(\d+)\s*tokens?\s*>\s*(\d+)",
    "LangChain": r"prompt is too long",
    "litellm": r"(?i)this model's maximum context length is",
    "OpenAI": r"This model's maximum context length is (\d+) tokens",
    "opencode": r"(?i)maximum context length is \d+ tokens",
}
"""What clients search for in the message."""
GENERATING = {
    "/v1/chat/completions": {"messages": HI},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"messages": HI, "max_tokens": 5},
    "/api/chat": {"messages": HI},
    "/api/generate": {"prompt": "Hi"},
}


class Full(LLMService):
    """Its context is full; the numbers that it tells are set by a test."""

    numbers: tuple[int | None, int | None] = (5000, 4096)

    @property
    def capabilities(self):
        return frozenset({"chat", "embeddings", "count_tokens", "raw", "stop"})

    def refuse(self):
        tokens, context = self.numbers
        raise ContextLengthError("It is full.", prompt_tokens=tokens, context_length=context, hint="Shorten it.")

    async def _stream(self, request):
        self.refuse()
        yield []

    async def _count_tokens(self, request):
        self.refuse()

    async def _embed(self, texts, model):
        self.refuse()


async def ask(served, path, body):
    async with (
        aiohttp.ClientSession() as session,
        session.post(served.url + path, json={"model": "m", **body}) as reply,
    ):
        return reply.status, await reply.text()


def message_of(path, text):
    error = json.loads(text)["error"]
    return error if path.startswith("/api/") else error["message"]


@pytest.mark.parametrize("path", [*GENERATING, "/v1/embeddings", "/api/embed", "/v1/messages/count_tokens"])
@pytest.mark.parametrize("numbers", [(5000, 4096), (None, 4096), (4000, 4096)], ids=str)
async def test_the_words_that_clients_search_for(path: str, numbers):
    bodies = GENERATING | {
        "/v1/embeddings": {"input": "Hi"}, "/api/embed": {"input": "Hi"}, "/v1/messages/count_tokens": {"messages": HI},
    }  # fmt: skip
    service = Full(config())
    service.numbers = numbers
    async with serving(service) as served:
        status, text = await ask(served, path, {**bodies[path], **({"stream": False} if path in GENERATING else {})})
    assert status == 400, text
    message = message_of(path, text)
    for pattern in CLIENTS.values():
        assert re.search(pattern, message), message
    tokens, limit = re.search(CLIENTS["Claude Code"], message).groups()
    assert (int(tokens), int(limit)) == (5000 if numbers[0] == 5000 else 4097, 4096)
    assert "It is full. Shorten it." in message
    if path.startswith("/api/"):
        assert message.startswith("the input length exceeds the context length")
    elif not path.startswith("/v1/messages"):
        assert json.loads(text)["error"]["code"] == "context_length_exceeded"
    else:
        assert message.startswith("prompt is too long: ")
        assert json.loads(text)["error"]["details"]["error_code"] == "context_length_exceeded"


@pytest.mark.parametrize("path", [path for path in GENERATING if path != "/v1/responses"])
async def test_a_stream_that_does_not_begin_has_the_status(path: str):
    async with serving(Full(config())) as served:
        status, text = await ask(served, path, {**GENERATING[path], "stream": True})
    assert status == 400
    assert re.search(CLIENTS["Claude Code"], message_of(path, text))


async def test_a_stream_of_responses_ends_with_the_event_that_codex_knows():
    async with serving(Full(config())) as served:
        status, text = await ask(served, "/v1/responses", {"input": "Hi", "stream": True})
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert status == 200
    assert [event["type"] for event in events] == [
        "response.created", "response.in_progress", "error", "response.failed",
    ]  # fmt: skip
    assert events[2]["code"] == events[3]["response"]["error"]["code"] == "context_length_exceeded"
    assert events[3]["response"]["status"] == "failed"
    for pattern in CLIENTS.values():
        assert re.search(pattern, events[3]["response"]["error"]["message"])


async def test_the_connection_of_a_stream_that_was_refused_whole_stays_usable():
    opened: list[object] = []

    async def note(_session, _context, connection) -> None:
        opened.append(connection)

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(note)
    async with serving(Full(config())) as served, aiohttp.ClientSession(trace_configs=[trace]) as session:
        for _ in range(3):
            body = {"model": "m", "input": "Hi", "stream": True}
            async with session.post(f"{served.url}/v1/responses", json=body) as reply:
                assert "response.failed" in await reply.text()
    assert len(opened) == 1


async def test_an_engine_that_tells_no_numbers_has_the_models():
    reply = (400, {"error": {"message": "input is longer", "param": "input_tokens", "code": 400}})
    async with StubServer(reply=reply) as engine, serving(vllm(engine)) as served:
        _, text = await ask(served, "/v1/chat/completions", {"messages": HI})
        _, streamed = await ask(served, "/v1/chat/completions", {"messages": HI, "stream": True})
    for said in (text, streamed):
        assert "prompt is too long: at least 2049 tokens > 2048 maximum." in said


@pytest.mark.engine
async def test_a_real_engine():
    service = LlamaCppService(config(llamacpp_threads=1, llamacpp_parallel=1, llamacpp_ctx_size=512))
    async with serving(service) as served:
        long = {"messages": [{"role": "user", "content": "word " * 700}], "max_tokens": 5}
        for path in ("/v1/chat/completions", "/v1/messages", "/api/chat"):
            status, text = await ask(served, path, long | {"model": "demo"} if path != "/api/chat" else
                                     {"model": "demo", "messages": long["messages"]})  # fmt: skip
            assert status == 400
            tokens, limit = re.search(CLIENTS["Claude Code"], message_of(path, text)).groups()
            assert int(tokens) > 700
            assert limit == "512"
