"""What of Ollama's fields reaches the engine, and what is refused or listed as ignored."""

from __future__ import annotations

import aiohttp
import ollama
import pytest

from tests.gateway.apis.ollama.client import USER, Loader, send
from tests.gateway.serving import serving, vllm
from tests.gateway.test_field_names import ollama as chat
from tests.gateway.test_field_names import post_json
from tests.servers.openai_stub import StubServer

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


async def test_what_the_client_sends_reaches_the_engine():
    async with StubServer() as engine, serving(vllm(engine)) as served:
        status, _, (line,) = await send(
            served,
            "/api/chat",
            {
                "model": "m:latest",
                "messages": [{"role": "system", "content": "Be brief."}, *USER],
                "stream": False,
                "format": {"type": "object"},
                "think": "max",
                "keep_alive": "5m",
                "logprobs": True,
                "top_logprobs": 2,
                "truncate": True,
                "shift": False,
                "options": {
                    "num_predict": 7, "temperature": 0.25, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "seed": 11,
                    "stop": ["\n"], "repeat_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.25,
                    "num_ctx": 4096, "num_gpu": 1, "mirostat": 0,
                },
            },
        )  # fmt: skip
        sent = engine.bodies[-1]
    assert status == 422, line  # "Hello there." is no JSON object
    assert sent["model"] == "m"
    assert [turn["role"] for turn in sent["messages"]] == ["system", "user"]
    assert sent["max_tokens"] == 7
    assert {name: sent[name] for name in ("temperature", "top_p", "top_k", "min_p", "seed", "stop")} == {
        "temperature": 0.25, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "seed": 11, "stop": ["\n"],
    }  # fmt: skip
    assert (sent["repetition_penalty"], sent["presence_penalty"], sent["frequency_penalty"]) == (1.1, 0.5, 0.25)
    assert sent["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert sent["reasoning_effort"] == "max"
    assert sent["top_logprobs"] == 2


async def test_what_has_no_effect_is_listed():
    options = {"num_ctx": 99999, "num_gpu": 1, "num_keep": 4, "mirostat": 0, "seed": -1, "top_k": 0, "min_p": 0.0}
    body = {"model": "m", "messages": USER, "keep_alive": "5m", "truncate": True, "options": options}
    async with StubServer() as engine, serving(vllm(engine)) as served:
        whole = await send(served, "/api/chat", {**body, "stream": False})
        streamed = await send(served, "/api/chat", body)
        smaller = await send(served, "/api/chat", {**body, "options": {"num_ctx": 2048}})
        sent = engine.bodies[0]
    told = "options.num_gpu, options.num_keep, truncate, keep_alive, options.mirostat, options.num_ctx"
    assert whole[1]["X-Miner-Ignored-Params"] == streamed[1]["X-Miner-Ignored-Params"] == told
    assert smaller[1]["X-Miner-Ignored-Params"] == "truncate, keep_alive"
    assert "seed" not in sent
    assert sent["top_k"] == 0


async def test_what_ollama_does_not_read_is_skipped_and_listed():
    fields = {"temperature": 0.3, "options": {"no_such_option": 1, "mirostat": 2, "num_predict": 2.0}, "thread": None}
    body = {"model": "m", "messages": [{"role": "User", "content": "Hi", "name": "bob"}], "stream": False, **fields}
    async with StubServer() as engine, serving(vllm(engine)) as served:
        status, headers, _ = await send(served, "/api/chat", body)
        sent = engine.bodies[-1]
        async with (
            aiohttp.ClientSession(headers={"X-Miner-Unsupported": "refuse"}) as session,
            session.post(f"{served.url}/api/chat", json=body) as response,
        ):
            refused = response.status
    assert status == 200
    listed = headers["X-Miner-Ignored-Params"].split(", ")
    assert set(listed) >= {"temperature", "options.no_such_option", "options.mirostat", "messages.name"}
    assert sent["messages"][0]["role"] == "user"
    assert sent["temperature"] == 0.7
    assert refused == 400


async def test_an_exact_name_comes_before_one_in_another_case():
    async with StubServer(["Big", "big"]) as engine, serving(vllm(engine)) as served:
        for name, meant in (("Big", "Big"), ("big", "big"), ("BIG", "Big"), ("big:LATEST", "big")):
            body = {"model": name, "messages": USER}
            for path, more in (("/api/chat", {}), ("/v1/chat/completions", {}), ("/v1/messages", {"max_tokens": 4})):
                assert (await send(served, path, {**body, **more}))[0] == 200
                assert engine.bodies[-1]["model"] == meant


@pytest.mark.parametrize(
    ("count", "tokens"), [(-1, 2048), (-2, 2048), (0, 2048), (None, 2048), (9, 9)], ids=["-1", "-2", "0", "unset", "9"]
)
async def test_how_many_tokens(count, tokens):
    async with StubServer() as engine, serving(vllm(engine)) as served:
        await send(served, "/api/generate", {"model": "m", "prompt": "x", "options": {"num_predict": count}})
        assert engine.bodies[-1]["max_tokens"] == tokens


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"options": {"num_predict": -3}}, "options.num_predict"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"options": {"temperature": 3}}, "temperature"),
        ({"options": {"typical_p": 0.5}}, "options.typical_p"),
        ({"options": {"stop": [""]}}, "stop"),
        ({"format": "xml"}, "invalid format"),
        ({"format": {"type": "nothing"}}, "format: the JSON Schema is not valid"),
        ({"think": "loud"}, "think"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "x", "images": ["!"]}]}, "messages[0].images[0]"),
        ({"messages": [{"role": "user", "content": "x", "images": ["\u00e9"]}]}, "messages[0].images[0]"),
        ({"messages": [{"role": "user", "content": "x", "images": ["aGVsbG8="]}]}, "messages[0].images[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"model": ""}, "model is required"),
        ({"modle": "m"}, "modle"),
        ({"_debug_render_only": True}, "_debug_render_only"),
    ],
)
async def test_what_is_not_supported_is_refused_by_name(fields, named):
    service = Loader()
    async with serving(service) as served, ollama.AsyncClient(served.url):
        status, _, (line,) = await send(served, "/api/chat", {"model": "small", "messages": USER, **fields})
    assert (status, list(line)) == (400, ["error"])
    assert named in line["error"]
    assert service.requests == []


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"suffix": "x"}, '"small" does not support insert'),
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"context": [1, 2]}, "context"),
        ({"raw": True, "system": "s"}, "raw"),
    ],
)
async def test_what_generate_does_not_support_is_refused_by_name(fields, named):
    service = Loader()
    async with serving(service) as served:
        status, _, (line,) = await send(served, "/api/generate", {"model": "small", "prompt": "x", **fields})
    assert status == 400
    assert named in line["error"]
    assert service.requests == []


async def test_images_go_as_data_urls():
    service = Loader()
    async with serving(service) as served:
        api = ollama.AsyncClient(served.url)
        async with api:
            await api.chat("small", [{"role": "user", "content": "What is it?", "images": [PIXEL]}])
            await api.generate("small", "What is it?", images=[PIXEL], system="Be brief.")
    chat, generation = service.requests
    for request in (chat, generation):
        assert request.messages[-1].images()[0].image_url.url == f"data:image/png;base64,{PIXEL}"
        assert request.messages[-1].text() == "What is it?"
    assert generation.messages[0].text() == "Be brief."


async def test_ollamas_tool_message_may_call_its_tool_name():
    call = {"function": {"name": "f", "arguments": {}}}
    messages = [*USER, {"role": "assistant", "content": "", "tool_calls": [call]}]
    async with StubServer() as engine, serving(vllm(engine)) as served:
        body = chat(messages=[*messages, {"role": "tool", "name": "f", "content": "1"}])
        status, text, _ = await post_json(served, *body)
        assert status == 200, text
        assert engine.bodies[-1]["messages"][2]["name"] == "f"
        named = chat(messages=[{"role": "user", "name": "f", "content": "1"}])
        assert (await post_json(served, *named))[0] == 200
        assert "name" not in engine.bodies[-1]["messages"][0]
