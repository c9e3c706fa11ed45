"""Clients that mean no good: half a head, half a connection, no HTTP at all, thousands of idle ones, random bodies."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from miner.core.llms.LLMService import LLMService
from miner.core.wire import LLMChunk, ModelInfo, RerankResponse, RerankResult
from tests.fuzzing import examples
from tests.gateway.serving import Parrot, config, serving

WAIT = 30


class Able(Parrot):
    """Can what only some backends can, so that no 501 is meant."""

    @property
    def capabilities(self):
        return super().capabilities | {"count_tokens", "rerank"}

    async def _rerank(self, query, documents, model, top_n):
        return RerankResponse(results=[RerankResult(place, 1.0) for place in range(len(documents))])

    async def load_model(self, model=None, *, keep_alive=None):
        return ModelInfo(id=model)

    async def unload_model(self, model):
        return False

    def reset_model(self, model):
        pass

    async def pull_model(self, model, *, insecure=False):
        yield {"status": "success"}

    async def _count_tokens(self, request):
        return 1


def port(served):
    return int(served.url.rpartition(":")[2])


async def alive(served):
    async with aiohttp.ClientSession() as session, session.get(f"{served.url}/livez") as answer:
        return answer.status == 200


async def test_half_a_head_is_not_waited_for_for_ever():
    async with serving(Parrot(config()), serve_keepalive=0.5) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", port(served))
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-A")
        assert await asyncio.wait_for(reader.read(), WAIT) == b""
        writer.close()


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01 hello",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nA: \x00\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_no_http_gets_a_4xx_without_a_traceback(data, caplog):
    async with serving(Parrot(config())) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", port(served))
        writer.write(data)
        answer = await asyncio.wait_for(reader.read(), WAIT)
        writer.close()
        assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
        assert b"Traceback" not in answer
        assert await alive(served)
    assert "Traceback" not in caplog.text


async def test_a_client_that_closes_its_half_has_hung_up():
    closed = asyncio.Event()

    class Endless(LLMService):
        @property
        def capabilities(self):
            return frozenset({"chat"})

        async def _stream(self, request):
            try:
                while True:
                    yield [LLMChunk(content="x")]
                    await asyncio.sleep(0.01)
            finally:
                closed.set()

    async with serving(Endless(config(default_model="m"))) as served:
        body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "stream": True}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", port(served))
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        await asyncio.wait_for(reader.readuntil(b"x"), WAIT)
        writer.write_eof()
        await asyncio.wait_for(closed.wait(), WAIT)
        writer.close()


async def test_thousands_of_idle_connections():
    async with serving(Parrot(config())) as served:
        idle = [await asyncio.open_connection("127.0.0.1", port(served)) for _ in range(2000)]
        assert await alive(served)
        for _, writer in idle:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in idle))
        assert await alive(served)


@pytest.mark.process
async def test_random_requests_by_our_own_document(tmp_path):
    async with serving(Able(config(default_model="m"))) as served:
        process = await asyncio.to_thread(
            subprocess.run,
            [
                sys.executable, "-m", "schemathesis.cli", "run", f"{served.url}/openapi.json", "--max-examples",
                str(examples(4, 20)), "--checks", "not_a_server_error,status_code_conformance,content_type_conformance",
                "--seed", "1", "--no-color",
            ],
            capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert await alive(served)
    assert process.returncode == 0, process.stdout[-3000:]


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
fields = st.sampled_from(
    "model max_tokens temperature top_p n stream stream_options stop seed logit_bias tools tool_choice response_format "
    "logprobs top_logprobs reasoning_effort metadata input text instructions prompt suffix timeout keep_alive options "
    "format images think system thinking stop_sequences query documents top_n raw template context dimensions".split()
)
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "developer", "function", "x"]), "content": values},
    optional={"name": values, "tool_calls": values, "tool_call_id": values, "refusal": values},
)


@pytest.fixture
def able():
    """One server for all examples, and the loop it runs in."""
    with asyncio.Runner() as runner:
        context = serving(Able(config(default_model="m")))
        served = runner.run(context.__aenter__())
        yield runner, served
        runner.run(context.__aexit__(None, None, None))


@settings(max_examples=examples(100, 300), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    path=st.sampled_from(
        "v1/chat/completions v1/completions v1/responses v1/embeddings v1/rerank v1/messages v1/messages/count_tokens "
        "api/chat api/generate api/embed api/embeddings api/show".split()
    ),
    messages=st.lists(message, max_size=3),
    extra=st.dictionaries(fields, values, max_size=4),
)
def test_random_bodies_never_break_the_server(able, path, messages, extra):
    chat = {"model": "m", "messages": messages}
    base = {
        "v1/chat/completions": chat, "v1/messages": {**chat, "max_tokens": 4}, "v1/messages/count_tokens": chat,
        "api/chat": chat, "v1/responses": {"input": messages}, "v1/rerank": {"query": "x", "documents": ["y"]},
        "v1/embeddings": {"input": "x"}, "api/embed": {"model": "m", "input": "x"}, "api/show": {"model": "m"},
    }  # fmt: skip

    runner, served = able

    async def ask():
        async with aiohttp.ClientSession() as session:
            body = base.get(path, {"model": "m", "prompt": "x"}) | extra
            async with session.post(f"{served.url}/{path}", json=body) as answer:
                text = await answer.text()
                assert answer.status in (200, 400, 404), text
                assert "Traceback" not in text
                if answer.status != 200:
                    told = json.loads(text)["error"]
                    assert told if path.startswith("api/") else told["message"]

    runner.run(asyncio.wait_for(ask(), WAIT))


@pytest.mark.parametrize(
    ("line", "status", "code", "shape"),
    [
        ("CONNECT example.com:443 HTTP/1.1", 405, "method_not_allowed", "openai"),
        ("CONNECT /v1/messages HTTP/1.1", 405, "method_not_allowed", "anthropic"),
        ("CONNECT /api/chat HTTP/1.1", 405, "method_not_allowed", "ollama"),
        ("GET /v1/models HTTP/2.0", 505, "http_version_not_supported", "openai"),
        ("GET /api/tags HTTP/2.0", 505, "http_version_not_supported", "ollama"),
        ("GET /v1/models HTTP/0.9", 505, "http_version_not_supported", "openai"),
    ],
)
async def test_what_no_route_can_take_is_refused_in_the_dialect(line, status, code, shape):
    async with serving(Parrot(config())) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", port(served))
        writer.write(f"{line}\r\nHost: localhost\r\n\r\n".encode())
        head, _, body = (await asyncio.wait_for(reader.read(), 60)).partition(b"\r\n\r\n")
        writer.close()
        await alive(served)
    assert head.split()[1] == str(status).encode()
    assert b"application/json" in head
    told = json.loads(body)
    if shape == "openai":
        assert told["error"]["code"] == code
    elif shape == "anthropic":
        assert told["type"] == "error"
    else:
        assert isinstance(told["error"], str)
