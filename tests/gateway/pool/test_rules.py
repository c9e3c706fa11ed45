"""What a table says of its models: who may use them, what becomes of parameters, defaults, prices."""

from __future__ import annotations

import json
import logging

import pytest

from tests.gateway.pool.tables import entry, header, keys, serving_table
from tests.servers.openai_stub import StubServer

MESSAGES = [{"role": "user", "content": "Hi"}]


def table(server, rest, models=("a", "b", "c")):
    head = f'[backends.one]\nkind = "openai"\nurl = "{server.url}"\n'
    return head + rest


async def ids(client, name):
    return {model["id"] for model in (await client.get("/v1/models", **header(name)))["data"]}


async def test_keys_of_a_model_hide_it_from_others(tmp_path):
    keys(entry("team"), entry("guest"))
    async with StubServer(models=["a", "b"]) as server:
        text = table(server, '[models.a]\nkeys = ["team"]\naliases = ["x-*"]\n[models.b]\n')
        async with serving_table(tmp_path, text) as client:
            assert await ids(client, "team") == {"a", "b"}
            assert await ids(client, "guest") == {"b"}
            assert (await client.chat("x-1", header("team")))[0] == 200
            answers = []
            for name in ("a", "x-1", "nothing"):
                status, answer, _ = await client.chat(name, header("guest"))
                answers.append((status, answer["error"]["message"].replace(repr(name), "NAME")))
            assert answers == [(404, "There is no model NAME. Available: b.")] * 3
            status, answer, _ = await client.chat(None, header("guest"))
            assert (status, answer["error"]["message"]) == (404, "No model was named, and there is no default.")
            tags = await client.get("/api/tags", **header("guest"))
            assert [model["name"] for model in tags["models"]] == ["b"]
            status, _, _ = await client.ask("/api/show", {"model": "a"}, **header("guest"))
            assert status == 404


async def test_keys_that_are_limited_to_models_use_them_by_any_name(tmp_path):
    limits = {"named": ["a"], "by_alias": ["nick"], "by_wildcard": ["wild-*"], "by_example": ["wild-7"]}
    keys(*(entry(name, models=models) for name, models in limits.items()))
    async with StubServer(models=["a", "b"]) as server:
        text = table(server, '[models.a]\naliases = ["nick", "wild-*"]\n[models.b]\n')
        async with serving_table(tmp_path, text) as client:
            for key in limits:
                for name in ("a", "nick", "wild-3", "NICK"):
                    assert (await client.chat(name, header(key)))[0] == 200, (key, name)
                assert (await client.chat("b", header(key)))[0] == 404
                assert await ids(client, key) == {"a", "nick"}


async def test_nobody_without_a_key_uses_a_model_that_is_for_keys(tmp_path):
    async with StubServer(models=["a", "b"]) as server:
        text = table(server, '[models.a]\nkeys = ["anybody"]\n[models.b]\n')
        async with serving_table(tmp_path, text) as client:
            assert (await client.chat("a"))[0] == 404
            assert (await client.chat("b"))[0] == 200


async def test_what_becomes_of_unsupported_parameters_depends_on_request_key_model_and_server(tmp_path):
    keys(entry("plain"), entry("strict", unsupported="refuse"))
    async with StubServer(models=["a", "b", "c"]) as server:
        text = table(
            server,
            '[models.a]\nunsupported = "skip"\n[models.b]\nskip = ["best_of"]\n'
            '[models.c]\nunsupported = "skip"\nrefuse = ["best_of"]\n',
        )
        async with serving_table(tmp_path, text) as client:

            async def told(model, key, **headers):
                status, _, answered = await client.chat(model, {**header(key), **headers}, best_of=2, zeta="x")
                return status, answered.get("X-Miner-Ignored-Params")

            skip, refuse = {"X-Miner-Unsupported": "skip"}, {"X-Miner-Unsupported": "refuse"}
            assert await told("a", "plain") == (200, "best_of, zeta")
            assert await told("b", "plain") == (200, "best_of, zeta")
            assert (await told("c", "plain"))[0] == 400
            assert (await told("a", "strict"))[0] == 400
            assert (await told("b", "strict"))[0] == 400
            assert await told("c", "strict", **skip) == (200, "best_of, zeta")
            assert (await told("a", "plain", **refuse))[0] == 400


async def test_options_of_the_service_can_be_skipped_and_refused_by_name(tmp_path):
    async with StubServer(models=["a", "b", "c"]) as server:
        text = table(server, '[models.a]\n[models.b]\nskip = ["top_k"]\n[models.c]\nrefuse = ["reasoning_effort"]\n')
        async with serving_table(tmp_path, text) as client:
            able = client.served.gateway.service.backend_of("a").capabilities
            assert "top_k" not in able
            assert (await client.chat("a", top_k=3))[0] == 400
            status, _, headers = await client.chat("b", top_k=3)
            assert (status, headers["X-Miner-Ignored-Params"]) == (200, "top_k")
            ollama = {"model": "b", "messages": MESSAGES, "stream": False, "options": {"top_k": 3}}
            assert (await client.ask("/api/chat", ollama))[0] == 200


async def test_fields_of_the_engine_are_those_of_the_models_backend(tmp_path):
    async with StubServer(models=["v"]) as vllm, StubServer(models=["o"]) as plain:
        text = f"""
            [backends.one]
            kind = "vllm"
            url = "{vllm.url}"
            [backends.two]
            kind = "openai"
            url = "{plain.url}"
            [models.v]
            backend = "one"
            [models.o]
            backend = "two"
            """
        async with serving_table(tmp_path, text) as client:
            assert (await client.chat("v", min_tokens=3))[0] == 200
            assert vllm.bodies[-1]["min_tokens"] == 3
            status, answer, _ = await client.chat("o", min_tokens=3)
            assert (status, answer["error"]["param"]) == (400, "min_tokens")


SAMPLING = (
    '[models.a]\nsystem = "Be brief."\nsampling = { temperature = 0.2, top_p = 0.5, max_tokens = 7, stop = ["X"] }\n'
)


@pytest.mark.parametrize(
    ("path", "body", "limit"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}, "max_tokens"),
        ("/v1/completions", {"prompt": "Hi"}, None),
        ("/v1/responses", {"input": "Hi"}, "max_output_tokens"),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 9}, "max_tokens"),
        ("/api/chat", {"messages": MESSAGES, "stream": False}, None),
        ("/api/generate", {"prompt": "Hi", "stream": False}, None),
    ],
)
async def test_the_defaults_of_a_model_hold_where_the_client_sets_nothing(tmp_path, path, body, limit):
    async with StubServer(models=["a"]) as server, serving_table(tmp_path, table(server, SAMPLING)) as client:
        status, answer, _ = await client.ask(path, {"model": "a", **body})
        assert status == 200, answer
        sent = server.bodies[-1]
        assert (sent["temperature"], sent["top_p"], sent["stop"]) == (0.2, 0.5, ["X"])
        assert sent.get("max_tokens", sent.get("max_completion_tokens")) == body.get("max_tokens", 7)
        if path == "/v1/responses":
            assert (answer["temperature"], answer["top_p"]) == (0.2, 0.5)
        own = {"options": {"temperature": 1.0, "num_predict": 3}} if path.startswith("/api") else {"temperature": 1.0}
        await client.ask(path, {"model": "a", **body, **own})
        assert server.bodies[-1]["temperature"] == 1.0
        if path.startswith("/api"):
            assert server.bodies[-1]["max_tokens"] == 3
        if limit is not None:
            await client.ask(path, {"model": "a", **body, limit: 4})
            assert server.bodies[-1]["max_tokens"] == 4


def reply(prompt, completion, cached=None):
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    if cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    message = {"role": "assistant", "content": "Hi"}
    return {"id": "x", "model": "a", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": usage}  # fmt: skip


PRICES = '[models.a]\naliases = ["a-*"]\nprice = { input = 2.0, cached = 0.5, output = 10.0 }\n[models.free]\n'


async def test_a_request_costs_what_the_table_says(tmp_path, caplog):
    caplog.set_level(logging.INFO, "miner.access")
    server = StubServer(models=["a", "free"], reply=lambda body: reply(1000, 100, 400))
    async with server, serving_table(tmp_path, table(server, PRICES)) as client:
        service = client.served.gateway.service
        answered = await service.chat_completion(MESSAGES, model="a")
        assert answered.cost == pytest.approx((600 * 2 + 400 * 0.5 + 100 * 10) / 1e6)
        assert (await service.chat_completion(MESSAGES, model="free")).cost is None
        assert (await client.chat("a-1"))[0] == 200
        assert (await client.chat("free"))[0] == 200
        lines = [record.fields for record in caplog.records if record.name == "miner.access"]
        assert [line.get("cost") for line in lines] == [0.0024, None]
        assert [line["served"] for line in lines] == ["a", None]
        async with client.session.get(f"{client.served.url}/metrics") as answer:
            text = await answer.text()
        assert 'miner_cost_total{model="a"} 0.0024' in text
        assert 'model="free"' in text
        assert 'miner_cost_total{model="free"}' not in text


async def test_streams_embeddings_and_what_has_no_cache_price_cost_too(tmp_path):
    events = [
        {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11,
                                  "prompt_tokens_details": {"cached_tokens": 4}}},
    ]  # fmt: skip
    text = "[models.a]\nprice = { input = 1.0, output = 2.0 }\n"
    server = StubServer(models=["a"], reply=lambda body: events)
    async with server, serving_table(tmp_path, table(server, text)) as client:
        stream = client.served.gateway.service.stream("Hi", model="a")
        assert (await stream.collect()).cost == pytest.approx(12e-6)
        status, answer, _ = await client.chat("a", stream=True)
        assert status == 200
        assert json.loads(answer.split("data: ")[1])["model"] == "a"
        assert client.served.gateway.counters.cost == {"a": pytest.approx(12e-6)}
        embedded = await client.served.gateway.service.embed(["one two"], model="a")
        assert embedded.cost == pytest.approx(embedded.usage.prompt_tokens / 1e6)
