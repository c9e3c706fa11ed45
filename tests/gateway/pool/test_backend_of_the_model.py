"""What depends on the backend is asked of the model's own, in a table with different ones."""

from __future__ import annotations

import json
import textwrap

import pytest

from tests.core.llms.conftest import install  # noqa: F401  (a fixture)
from tests.core.llms.pool.files import pool_of
from tests.gateway.batch.test_batches import clients, created, ended
from tests.gateway.pool.tables import serving_table
from tests.servers.openai_stub import StubServer

WORDS = """
    from miner.core.llms import LLMService
    from miner.core.wire import ModelInfo
    from miner.errors import ModelNotFoundError

    class Service(LLMService):
        async def generate(self, prompt, model, max_tokens, temperature, top_p):
            return " ".join(prompt.split()[:max_tokens])

        async def list_models(self):
            return [ModelInfo(id="words")]

        async def _get_model(self, name):
            if name != "words":
                raise ModelNotFoundError(f"no {name}", model=name)
            return name
"""
ONE = """
    import asyncio
    from miner.core.llms import LLMService

    class Service(LLMService):
        concurrency = 2
        running, most = 0, 0

        async def generate(self, prompt, model, max_tokens, temperature, top_p):
            cls = type(self)
            cls.running += 1
            cls.most = max(cls.most, cls.running)
            await asyncio.sleep(0.02)
            cls.running -= 1
            return prompt
"""


def exposing(server):
    return f"""
        [backends.a]
        kind = "vllm"
        url = "{server.url}"
        expose = true
        [backends.b]
        kind = "plugin"
        expose = true
        """


def in_table(server):
    return f"""
        [backends.a]
        kind = "vllm"
        url = "{server.url}"
        [backends.b]
        kind = "plugin"
        [models.m]
        backend = "a"
        [models.words]
        backend = "b"
        """


@pytest.mark.parametrize("table", [exposing, in_table])
@pytest.mark.parametrize(
    ("path", "body", "ignored"),
    [
        ("/v1/completions", {"prompt": "one two three", "max_tokens": 2}, "raw"),
        ("/api/generate", {"prompt": "one two three", "raw": True, "stream": False}, "raw"),
        ("/api/chat", {"messages": [{"role": "user", "content": "one"}], "keep_alive": "5m", "stream": False},
         "keep_alive"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "one"}], "request_id": "r"}, "request_id"),
        ("/completions", {"prompt": "one two three", "max_tokens": 2}, "raw"),
    ],
)  # fmt: skip
async def test_the_very_first_request_gets_what_its_backend_can_do(install, tmp_path, table, path, body, ignored):  # noqa: F811
    install("plugin", WORDS)
    async with StubServer(["m"]) as server, serving_table(tmp_path, table(server)) as client:
        status, answer, headers = await client.ask(path, {"model": "words", **body})
        assert (status, headers.get("X-Miner-Ignored-Params")) == (200, ignored), answer
        assert server.generations == []


async def test_errors_name_the_models_backend(install, tmp_path):  # noqa: F811
    install("plugin", WORDS)
    async with StubServer(["m"]) as server, serving_table(tmp_path, in_table(server)) as client:
        body = {"model": "words", "messages": [{"role": "user", "content": "one"}]}
        status, answer, _ = await client.ask("/v1/messages/count_tokens", body)
        assert (status, answer["error"]["message"].split(".")[0]) == (501, "b cannot count tokens")


async def test_rows_of_batches_and_lists_of_prompts_leave_a_slot_of_each_backend(install, tmp_path):  # noqa: F811
    install("one", ONE)
    async with StubServer(["m"]) as server:
        text = f"""
        [limits]
        max_queue = 3
        [backends.a]
        kind = "openai"
        url = "{server.url}"
        concurrency = 64
        [backends.b]
        kind = "one"
        [models.m]
        backend = "a"
        [models.few]
        backend = "b"
        """

        def lines(model, count):
            rows = [
                {"custom_id": f"{n}", "method": "POST", "url": "/v1/chat/completions", "body": {
                    "model": model, "messages": [{"role": "user", "content": f"{n}"}]}}
                for n in range(count)
            ]  # fmt: skip
            return "\n".join(map(json.dumps, rows)).encode()

        async with (
            serving_table(tmp_path, text, serve_store_file=str(tmp_path / "store.db")) as client,
            clients(client.served) as (one, _),
        ):
            backend = client.served.gateway.service.backend_of("few")
            slow, quick = await created(one, lines("few", 12)), await created(one, lines("m", 6))
            for batch in (slow, quick):
                done = await ended(one, batch)
                assert (done.status, done.request_counts.completed) == ("completed", done.request_counts.total)
            assert backend.most == 1
        async with pool_of(tmp_path, textwrap.dedent(text)) as service:
            results = [each async for each in service.generate_many(map(str, range(12)), model="few")]
            assert sorted(int(text) for _, text in results) == list(range(12))  # none found the queue full
            assert service.served("few").holder.service.most == 2


async def test_a_pull_goes_to_the_backend_of_the_name_under_its_name_there(tmp_path):
    async with StubServer(["q"], side={"/api/pull": {"status": "success"}}) as server:
        text = f"""
        [backends.local]
        kind = "llamacpp"
        [backends.den]
        kind = "ollama"
        url = "{server.url}"
        [models.small]
        backend = "local"
        hub = "owner/name"
        [models.big]
        backend = "den"
        name = "qwen3:0.6b"
        """
        async with pool_of(tmp_path, text) as service:
            assert service.served("small").source == "hf:owner/name"
            assert [event async for event in service.pull_model("big")] == [{"status": "success"}]
    assert [(each.path, each.json["model"]) for each in server.requests if each.path == "/api/pull"] == [
        ("/api/pull", "qwen3:0.6b")
    ]
