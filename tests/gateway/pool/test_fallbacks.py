"""Models that take over while another's backend is unavailable: who has served it is told, and its price counts."""

from __future__ import annotations

import re

import pytest

from tests.gateway.pool.tables import serving_table
from tests.servers.openai_stub import StubServer
from tests.servers.ports import closed_port

MESSAGES = [{"role": "user", "content": "Hi"}]
CALLS = [
    ("/v1/chat/completions", {"messages": MESSAGES}), ("/v1/completions", {"prompt": "Hi"}),
    ("/v1/responses", {"input": "Hi"}), ("/v1/messages", {"messages": MESSAGES, "max_tokens": 5}),
    ("/api/chat", {"messages": MESSAGES}), ("/api/generate", {"prompt": "Hi"}),
]  # fmt: skip


def table(server):
    return f"""
        [backends.down]
        kind = "vllm"
        url = "http://127.0.0.1:{closed_port()}"
        [backends.up]
        kind = "openai"
        url = "{server.url}"
        [models.first]
        backend = "down"
        fallbacks = ["second"]
        price = {{ output = 100.0 }}
        [models.second]
        backend = "up"
        name = "m"
        aliases = ["other"]
        price = {{ output = 1.0 }}
        """


MODEL = re.compile(r'"model":\s?"([^"]*)"')


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), CALLS)
async def test_a_fallback_serves_while_the_backend_is_down(tmp_path, path, body, stream):
    server = StubServer(models=["m"], reply="Hello.")
    async with server, serving_table(tmp_path, table(server)) as client:
        for _ in range(2):  # the second while the first rests
            sent = {"model": "first", **body, "stream": stream}
            async with client.session.post(client.served.url + path, json=sent) as answer:
                text = await answer.text()
                assert answer.status == 200, text
                assert answer.headers["X-Miner-Model"] == "second"
            if path.startswith("/v1"):
                assert set(MODEL.findall(text)) == {"second"}
        costs = client.served.gateway.counters.cost
        assert set(costs) == {"second"}
        assert {sent["model"] for sent in server.bodies} == {"m"}


async def test_vectors_are_never_those_of_another_model(tmp_path):
    async with StubServer(models=["m"]) as server, serving_table(tmp_path, table(server)) as client:
        for path, body in (("/v1/embeddings", {"input": "Hi"}), ("/api/embed", {"input": "Hi"})):
            status, _, headers = await client.ask(path, {"model": "first", **body})
            assert status in (502, 503)
            assert "X-Miner-Model" not in headers
        assert (await client.ask("/v1/embeddings", {"model": "second", "input": "Hi"}))[0] == 200


async def test_without_a_fallback_the_error_is_the_backends(tmp_path):
    async with StubServer(models=["m"]) as server:
        text = table(server).replace('fallbacks = ["second"]', "")
        async with serving_table(tmp_path, text) as client:
            status, answer, _ = await client.chat("first")
            assert status in (502, 503)
            assert "down" in answer["error"]["message"]


@pytest.mark.process
@pytest.mark.parametrize("stream", [False, True])
async def test_a_fallback_serves_where_a_command_does_not_start(tmp_path, stream):
    async with StubServer(models=["m"], reply="Hello.") as server:
        text = re.sub(r'url = "http://127.0.0.1:\d+"', 'command = ["false", "${PORT}"]', table(server), count=1)
        async with serving_table(tmp_path, text) as client:
            status, answer, headers = await client.chat("first", stream=stream)
            assert (status, headers["X-Miner-Model"]) == (200, "second"), answer
