"""Unexpected exceptions, anywhere in a request: one response, one entry in the log, and the slot is free."""

from __future__ import annotations

import asyncio
import json
import logging

import aiohttp
import pytest

from miner.core.llms.LLMService import LLMService
from miner.core.wire import LLMChunk
from miner.gateway.app import default_middleware
from miner.gateway.middleware.base import Middleware
from miner.gateway.settings import GatewaySettings
from tests.gateway.serving import Parrot, config, post, serving

WAIT = 60
SECRET = "the secret words of the prompt"
MESSAGES = [{"role": "user", "content": SECRET}]
STREAMS = {
    "/v1/chat/completions": {"model": "m", "messages": MESSAGES, "stream": True},
    "/v1/completions": {"model": "m", "prompt": SECRET, "stream": True},
    "/v1/responses": {"model": "m", "input": SECRET, "stream": True},
    "/v1/messages": {"model": "m", "max_tokens": 9, "messages": MESSAGES, "stream": True},
    "/api/chat": {"model": "m", "messages": MESSAGES},
    "/api/generate": {"model": "m", "prompt": SECRET},
}
SEVERAL = {
    "/v1/chat/completions": {**STREAMS["/v1/chat/completions"], "n": 3},
    "/v1/completions": {**STREAMS["/v1/completions"], "n": 3},
}
KINDS = [
    ValueError(f"what: {SECRET}"), RuntimeError("no"), KeyError("k"), StopIteration(), StopAsyncIteration(),
    ConnectionResetError("the engine's, not the client's"), TimeoutError(), asyncio.CancelledError(), SystemExit(3),
    KeyboardInterrupt(), GeneratorExit(), AssertionError(), ExceptionGroup("g", [ValueError("in it")]),
]  # fmt: skip


class Broken(LLMService):
    """Raises this error after so many chunks; -1: before the stream is even made."""

    def __init__(self, error, after):
        super().__init__(config(default_model="m"))
        self.error, self.after, self.played = error, after, 0

    @property
    def capabilities(self):
        return frozenset({"chat", "raw", "embeddings", "rerank", "tokenize"})

    async def _stream(self, request):
        self.played += 1
        index = self.played
        for number in range(self.after):
            yield [LLMChunk(content=f"w{number} ")]
        if self.error is not None and index == self.played:
            raise self.error
        yield [LLMChunk(content="end", finish_reason="stop")]

    async def _chat(self, request):
        raise self.error

    async def _embed(self, texts, **_):
        raise self.error

    async def _rerank(self, *_, **__):
        raise self.error

    async def list_models(self):
        raise self.error

    async def count_tokens(self, *_, **__):
        raise self.error

    async def health(self):
        raise self.error


async def raw(served, path, body):
    """All bytes of one response over a connection of its own, until the server closes it."""
    host, port = "127.0.0.1", int(served.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection(host, port)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: mine\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    try:
        return await asyncio.wait_for(reader.read(), WAIT)
    finally:
        writer.close()


def faults_of(caplog):
    return [record for record in caplog.records if record.name == "miner.gateway" and record.levelno >= logging.ERROR]


def assert_error_event(path, data):
    """One head, the pieces that came, the dialect's error event, the end of the body."""
    assert data.count(b"HTTP/1.1 ") == 1
    assert data.startswith(b"HTTP/1.1 200 ")
    assert b"w0 " in data
    assert data.endswith(b"0\r\n\r\n")
    text = data.decode()
    assert "Internal server error" in text
    assert "[DONE]" not in text
    assert "message_stop" not in text
    assert '"done":true' not in text
    if path.startswith("/api/"):
        assert json.loads(text.split("\r\n")[-4])["error"] == "Internal server error."
    elif path == "/v1/messages":
        assert "event: error\n" in text
    elif path == "/v1/responses":
        assert "response.failed" in text or "event: error" in text
    else:
        assert '"type":"server_error"' in text


@pytest.mark.parametrize("path", STREAMS)
async def test_in_the_middle_of_a_stream(path, caplog):
    async with serving(Broken(ValueError(f"what: {SECRET}"), 2)) as served:
        data = await raw(served, path, STREAMS[path])
        assert not served.gateway.requests
        assert not served.gateway.streams
    assert_error_event(path, data)
    assert b"what:" not in data
    [record] = faults_of(caplog)
    assert "mine" in record.getMessage()
    assert "ValueError: what: <prompt>" in record.exc_text
    assert "_stream" in record.exc_text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("error", KINDS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("body", [STREAMS, SEVERAL], ids=["one", "several"])
async def test_whatever_kind_of_exception(body, error, caplog):
    path = "/v1/chat/completions"
    async with serving(Broken(error, 2)) as served:
        assert_error_event(path, await raw(served, path, body[path]))
        assert not served.gateway.requests
        async with aiohttp.ClientSession() as session, session.get(f"{served.url}/livez") as answer:
            assert answer.status == 200
    assert len(faults_of(caplog)) == 1


@pytest.mark.parametrize("path", SEVERAL)
async def test_one_of_several_replies_ends_them_all_and_gives_the_slots_back(path):
    async with serving(Broken(ValueError("no"), 2), serve_max_running=3, serve_max_queued=0) as served:
        for _ in range(3):
            assert_error_event(path, await raw(served, path, SEVERAL[path]))


@pytest.mark.parametrize("error", KINDS, ids=lambda error: type(error).__name__)
async def test_before_the_first_chunk_and_without_streaming_it_is_a_500(error, caplog):
    async with serving(Broken(error, 0)) as served:
        for stream in (True, False):
            for n in (1, 2):
                body = {**STREAMS["/v1/chat/completions"], "stream": stream, "n": n}
                async with post(served, body) as answer:
                    assert answer.status == 500
                    assert (await answer.json())["error"] == {
                        "message": "Internal server error.", "type": "server_error", "param": None,
                        "code": "internal_error",
                    }  # fmt: skip
    assert len(faults_of(caplog)) == 4


@pytest.mark.parametrize("error", [ValueError("x"), asyncio.CancelledError(), SystemExit(3), GeneratorExit()], ids=repr)
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/embeddings", {"model": "m", "input": "x"}),
        ("POST", "/api/embed", {"model": "m", "input": "x"}),
        ("POST", "/v1/rerank", {"model": "m", "query": "q", "documents": ["a", "b"]}),
        ("POST", "/v1/messages/count_tokens", {"model": "m", "messages": MESSAGES}),
        ("GET", "/v1/models", None),
        ("GET", "/v1/models/m", None),
        ("GET", "/api/tags", None),
        ("POST", "/api/show", {"model": "m"}),
        ("GET", "/admin/engines", None),
    ],
)
async def test_every_other_question_to_a_backend(method, path, body, error):
    async with (
        serving(Broken(error, 0)) as served,
        aiohttp.ClientSession() as session,
        session.request(method, served.url + path, json=body) as answer,
    ):
        text = await answer.text()
    assert answer.status == 500
    assert answer.headers["Content-Type"] == "application/json"
    assert "Internal server error" in text


async def test_health_that_raises_is_not_ready_and_metrics_go_on():
    async with serving(Broken(ValueError("x"), 0)) as served, aiohttp.ClientSession() as session:
        async with session.get(f"{served.url}/readyz") as answer:
            assert answer.status == 503
            assert "health check" in (await answer.json())["reason"]
        async with session.get(f"{served.url}/metrics") as answer:
            assert answer.status == 200
            assert "miner_backend_up 0.0" in await answer.text()


class Bad(Middleware):
    """Raises at one point of the way."""

    def __init__(self, where, error):
        def fail(*_):
            raise error

        async def fail_waiting(*_):
            raise error

        self.calls = 0
        kind = type(f"Bad_{where}", (Middleware,), {where: fail_waiting if where.startswith("before_") else fail})
        self.__class__ = type(kind.__name__, (kind, Bad), {})


class Counting(Middleware):
    def __init__(self):
        self.batches = self.finished = 0

    def on_chunks(self, context, chunks):
        self.batches += 1

    def on_finish(self, context):
        self.finished += 1


def with_bad(where, error=None, **settings):
    first, last = Counting(), Counting()
    kept = default_middleware(GatewaySettings(_env_file=None, serve_log="off", **settings))
    return (
        first,
        last,
        [first, Bad(where, error or ValueError("no")), *kept, Bad(where, error or ValueError("no")), last],
    )


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(2)], ids=repr)
async def test_each_leave_runs_and_each_failure_is_logged(error, caplog):
    first, last, middleware = with_bad("on_finish", error)
    async with serving(Parrot(config()), middleware=middleware, serve_max_running=1, serve_max_queued=0) as served:
        for _ in range(3):
            async with post(served, {**STREAMS["/v1/chat/completions"], "stream": False}) as answer:
                assert answer.status == 200
        assert not served.gateway.requests
        assert not served.gateway.running
    assert (first.finished, last.finished) == (3, 3)
    assert len(faults_of(caplog)) == 6


async def test_an_observer_of_batches_breaks_no_stream_and_is_logged_once_a_request(caplog):
    first, last, middleware = with_bad("on_chunks")
    service = Broken(None, 5)
    async with (
        serving(service, middleware=middleware) as served,
        post(served, STREAMS["/v1/chat/completions"]) as answer,
    ):
        assert (await answer.text()).endswith("data: [DONE]\n\n")
    assert first.batches == last.batches == 6
    assert len(faults_of(caplog)) == 2


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(2), KeyboardInterrupt(), GeneratorExit()], ids=repr)
@pytest.mark.parametrize("where", ["on_request", "before_body", "before_call"])
async def test_a_failed_middleware_is_a_500_and_holds_no_slot(where, error, caplog):
    first, last, middleware = with_bad(where, error, serve_max_running=1)
    middleware.pop(1)
    async with serving(Parrot(config()), middleware=middleware, serve_max_running=1) as served:
        for _ in range(3):
            async with post(served, {**STREAMS["/v1/chat/completions"], "stream": False}) as answer:
                assert answer.status == 500
                assert (await answer.json())["error"]["code"] == "internal_error"
        assert served.gateway.queue.permits.held == 0
    assert first.finished == last.finished == 3
    assert len(faults_of(caplog)) == 3


@pytest.mark.parametrize("part", ["batch", "end", "error"])
async def test_a_writer_that_fails_ends_the_stream_with_one_head(part, monkeypatch, caplog):
    from miner.gateway.apis.openai.stream import ChatStream

    real = ChatStream.batch
    calls = []

    def broken(self, *arguments):
        calls.append(1)
        if part == "batch" and len(calls) < 3:
            return real(self, *arguments)
        raise LookupError("in the writer")

    monkeypatch.setattr(ChatStream, part, broken)
    service = Broken(ValueError("no") if part == "error" else None, 5)
    async with serving(service) as served:
        data = await raw(served, "/v1/chat/completions", STREAMS["/v1/chat/completions"])
        assert not served.gateway.requests
    assert data.count(b"HTTP/1.1 ") == 1
    assert b"[DONE]" not in data
    if part == "error":
        assert not data.endswith(b"0\r\n\r\n")  # nothing could be said, so the client sees that the body is cut
    else:
        assert b"Internal server error" in data
    assert len(faults_of(caplog)) == (2 if part == "error" else 1)


async def test_text_that_is_no_text_is_an_error_of_the_backend():
    class Surrogates(Parrot):
        async def generate(self, prompt):
            return "\ud800"

    async with serving(Surrogates(config())) as served:
        for stream in (False, True):
            async with post(served, {"messages": MESSAGES, "stream": stream}) as answer:
                assert "Internal server error" in await answer.text()
