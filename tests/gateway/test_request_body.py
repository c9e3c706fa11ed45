"""Large bodies: none of them keeps the server from the others, takes its memory, or is read where nobody may ask."""

from __future__ import annotations

import asyncio
import gc
import gzip
import http.client
import json
import zlib

import aiohttp
import pytest

from miner.core.llms.LLMService import LLMService
from miner.core.wire import Embedding, EmbeddingResponse, LLMResponse, RerankResponse, RerankResult, TokenUsage
from miner.errors import InvalidRequestError
from miner.gateway.body_structure import MAX_ESCAPES, MAX_VALUES, check_structure
from miner.gateway.context import RequestContext
from tests.gateway.bodies import CHAT, KINDS, watched
from tests.gateway.middleware.test_rate_limit import Gated, until
from tests.gateway.serving import Parrot, config, post, serving, vllm
from tests.servers.openai_stub import StubServer

MEGABYTE = 1_000_000
WAIT = 60
SAID = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


class Echo(LLMService):
    """Answers at once, and can whatever a body asks for."""

    @property
    def capabilities(self):
        return frozenset("chat images embeddings rerank raw stop seed logit_bias tools json_schema".split())

    async def _chat(self, request):
        return LLMResponse(content="{}", finish_reason="stop", usage=TokenUsage(1, 1, 2))

    async def _embed(self, texts, model):
        return EmbeddingResponse(data=[Embedding(place, [1.0]) for place in range(len(texts))])

    async def _rerank(self, query, documents, model, top_n):
        return RerankResponse(results=[RerankResult(place, 1.0) for place in range(len(documents))])


def sent(port, path, body):
    """Status and length of the response, from a thread: the loop is to do nothing but serve."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, len(response.read())
    finally:
        connection.close()


def port_of(served):
    return int(served.url.rpartition(":")[2])


@pytest.mark.parametrize("kind", KINDS)
async def test_no_body_stops_the_event_loop(kind):
    path, make = KINDS[kind]
    body = make(4 * MEGABYTE)
    async with serving(Echo(config(default_model="m"))) as served:
        async with watched() as lag:
            status, length = await asyncio.to_thread(sent, port_of(served), path, body)
        assert served.gateway.bodies.used == 0
    assert status in (200, 400, 413), status
    assert length < 200_000  # nobody gets a body back; 2048 vectors are 110 KB
    assert lag.cpu < 0.4, f"{lag.cpu:.3f} s"  # some milliseconds, where it was a second


async def test_what_a_request_held_is_gone_when_it_ends():
    gc.collect()
    others = {id(thing) for thing in gc.get_objects() if type(thing) is RequestContext}  # that other tests' logs hold
    gc.disable()
    try:
        async with serving(Echo(config(default_model="m"))) as served:
            for body in (SAID, {**SAID, "stream": True}, {**SAID, "seed": "x"}, {**SAID, "messages": [{"role": "x"}]}):
                padded = {**body, "user": "x" * 200_000}
                await asyncio.to_thread(sent, port_of(served), CHAT, json.dumps(padded).encode())
            async with asyncio.timeout(WAIT):
                while any(type(t) is RequestContext and id(t) not in others for t in gc.get_objects()):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
    finally:
        gc.enable()


async def test_ordinary_bodies_of_every_size_are_served():
    text = 'Hello, "world".\n\té\\ ' * 4000
    tools = [
        {"type": "function", "function": {"name": f"f{n}", "parameters": {"type": "object", "properties": {
            f"p{m}": {"type": "string", "description": "a, b, {c}, [d]"} for m in range(8)}}}} for n in range(120)
    ]  # fmt: skip
    bodies = [
        {**SAID, "messages": [{"role": "user", "content": text * 20}]},
        {**SAID, "messages": [{"role": "user", "content": "one, two, {three}"} for _ in range(5000)]},
        {**SAID, "tools": tools},
    ]
    async with serving(Echo(config(default_model="m"))) as served:
        for body in bodies:
            for data in (json.dumps(body), json.dumps(body, ensure_ascii=False), json.dumps(body, indent=4)):
                status, _ = await asyncio.to_thread(sent, port_of(served), CHAT, data.encode())
                assert status == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**SAID, "stop": [str(n) for n in range(1000)]}, "stop"),
        ({**SAID, "logit_bias": {str(n): 1 for n in range(20_000)}}, "logit_bias"),
        ({**SAID, "messages": [{"role": "user", "content": "x"}] * 20_000}, "messages"),
        ({**SAID, "model": "m" * 5000}, "model"),
    ],
)  # fmt: skip
async def test_a_list_that_is_too_long_is_named(body, field):
    async with serving(Echo(config(default_model="m"))) as served, post(served, body) as response:
        assert response.status == 400
        told = (await response.json())["error"]
        assert told["param"] == field
        assert len(told["message"]) < 200


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/api/chat"])
async def test_the_list_has_the_clients_name_in_every_dialect(path):
    items = [{"role": "user", "content": "x"}] * 20_000
    name = "input" if path == "/v1/responses" else "messages"
    body = {"model": "m", name: items, **({"max_tokens": 1} if path == "/v1/messages" else {})}
    async with serving(Echo(config(default_model="m"))) as served, post(served, body, path) as response:
        assert response.status == 400
        assert f"{name} holds 20000 items" in await response.text()


async def test_a_compressed_body_is_refused_and_not_unpacked():
    plain = json.dumps({**SAID, "user": "x" * 30 * MEGABYTE}).encode()
    async with serving(Echo(config(default_model="m"))) as served:
        packed = [("gzip", gzip.compress(plain)), ("deflate", zlib.compress(plain)), ("br", b"x"), ("GZIP", b"x")]
        for coding, data in packed:
            async with post(served, data, headers={"Content-Encoding": coding}) as response:
                assert response.status == 415
                assert response.headers["Accept-Encoding"] == "identity"
        async with post(served, SAID, headers={"Content-Encoding": "identity"}) as response:
            assert response.status == 200


async def test_all_bodies_together_have_a_budget_that_comes_back():
    service = Gated(config())
    big = {**SAID, "messages": [{"role": "user", "content": "x" * 400_000}]}
    async with serving(service, serve_body_budget=1_000_000, serve_max_body=1_000_000) as served:

        async def ask(body, **options):
            async with post(served, body, **options) as response:
                return response.status, response.headers.get("Retry-After"), await response.text()

        async def pieces():
            yield json.dumps(big).encode()

        asking = [asyncio.create_task(ask(big)) for _ in range(2)]
        await until(lambda: service.running == 2)
        assert 600_000 < served.gateway.bodies.used < 800_000
        for body in (big, pieces()):  # with its length, and without
            if isinstance(body, dict):
                status, later, text = await ask(body)
            else:
                async with aiohttp.ClientSession() as session, session.post(served.url + CHAT, data=body) as response:
                    status, later, text = response.status, response.headers.get("Retry-After"), await response.text()
            assert (status, later) == (503, "2")
            assert "overloaded" in text
        small = asyncio.create_task(ask(SAID))  # what is no burden is let in all the same
        await until(lambda: service.running == 3)
        for _ in range(3):
            service.go.release()
        assert [(await one)[0] for one in (*asking, small)] == [200, 200, 200]
        await until(lambda: served.gateway.bodies.used == 0)
        service.go.release()
        assert (await ask(big))[0] == 200
        gone = asyncio.create_task(ask(big))
        await until(lambda: service.running == 1)
        gone.cancel()
        await until(lambda: served.gateway.bodies.used == 0)


async def test_a_body_without_its_length_is_bounded_too():
    async def pieces():
        for _ in range(40):
            yield b" " * 100_000

    async with serving(Parrot(config()), serve_max_body=1_000_000) as served, aiohttp.ClientSession() as session:
        async with session.post(served.url + CHAT, data=pieces()) as response:
            assert response.status == 413
        assert served.gateway.bodies.used == 0


def test_values_are_counted_outside_of_texts():
    many = b"," * (MAX_VALUES + 1)
    for raw in (
        b'{"a":"' + many + b'"}', b'{"a":"\\\\\\"' + many + b'"}', b'{"a":"' + b"\\\\" * 700_000 + many + b'"}',
        b'{"a":"x' + b"\\\\" * 700_000 + b'\\"' + many + b'"}', b'["' + b"x" * (1 << 20) + many + b'"]',
    ):  # fmt: skip
        json.loads(raw)
        check_structure(b'{"x":' + raw + b"}")
    for raw in (
        b"[" + b"1," * MAX_VALUES + b"1]", b'{"a":"x' + b"\\\\" * 700_000 + b'","b":[1' + many + b"]}",
        b'["' + b"x" * (1 << 20) + b'"' + many + b"]", b'{"a":"\\\\","b":[' + b"{}," * MAX_VALUES + b"{}]}",
        b'["' + b"\\n" * (MAX_ESCAPES + 1) + b'"]', b"[" + b" " * 5_000_000 + b"]", b"[" + b'""' * 500_000 + b"]",
    ):  # fmt: skip
        with pytest.raises(InvalidRequestError, match="The request body holds more than"):
            check_structure(b'{"x":' + raw + b"}")


async def test_half_of_a_surrogate_pair_is_named():
    async with StubServer() as engine, serving(vllm(engine)) as served, aiohttp.ClientSession() as session:
        raw = b'{"model": "m", "messages": [{"role": "user", "content": "a\\ud800b"}]}'
        async with session.post(f"{served.url}/v1/chat/completions", data=raw) as reply:
            assert reply.status == 400
            said = await reply.text()
    assert "ud800 is half of a surrogate pair" in said


@pytest.mark.parametrize("field", ["extra", "extra_body", "Model", "n_predict"])
async def test_no_field_is_passed_on_unread(field):
    said = {"messages": [{"role": "user", "content": "Hi"}]}
    bodies = {
        "/v1/chat/completions": said, "/v1/completions": {"prompt": "x"}, "/v1/embeddings": {"input": "x"},
        "/v1/responses": {"input": "x"}, "/v1/messages": {**said, "max_tokens": 1}, "/api/chat": said,
        "/api/generate": {"prompt": "x"}, "/api/embed": {"input": "x"},
        "/v1/rerank": {"query": "x", "documents": ["y"]},
    }  # fmt: skip
    service = Parrot(config())
    async with serving(service) as served:
        for path, body in bodies.items():
            async with post(served, {"model": "m", **body, field: {"model": "big:cloud"}}, path) as response:
                assert response.status == 400, path
                assert field in await response.text()
    assert not hasattr(service, "asked")
