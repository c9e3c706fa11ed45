"""Fields of other servers and deprecated ones: converted, passed on, or left out and listed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.core.llms.llm_ollama import OllamaService
from tests.core.services import settings
from tests.gateway.apis.openai.client import USER
from tests.gateway.serving import Parrot, config, serving, vllm
from tests.gateway.test_field_names import post_json
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import delta, finish, openai_reply, usage_chunk

CHAT = "/v1/chat/completions"
BODIES: dict[str, dict[str, Any]] = {CHAT: {"messages": USER}, "/v1/completions": {"prompt": "Once"}}
REFUSE = {"X-Miner-Unsupported": "refuse"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("fields", "listed"),
    [
        ({"store": True}, "store"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"web_search_options": {"search_context_size": "low"}}, "web_search_options"),
        ({"modalities": ["text", "audio"], "audio": {"voice": "a", "format": "wav"}}, "audio, modalities"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"cache_prompt": True, "client_metadata": {"a": 1}}, "cache_prompt, client_metadata"),
        ({"documents": None, "thread": None, "compaction": {}, "fallbacks": []}, None),
        ({"messages": [{"role": "user", "content": "x", "zz": 1}, {"role": "user", "content": "x", "zz": 2}]},
         "messages.zz"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "mark": 1}]}]},
         "messages.content.mark"),
    ],
)  # fmt: skip
async def test_what_adds_is_left_out_and_listed(fields: dict[str, Any], listed: str | None):
    async with serving(Parrot(config())) as served:
        status, text, headers = await post_json(served, CHAT, {"model": "m", "messages": USER, **fields})
        assert (status, headers.get("x-miner-ignored-params")) == (200, listed), text
        status, text, _ = await post_json(served, CHAT, {"model": "m", "messages": USER, **fields}, **REFUSE)
        assert status == 400 or listed == "prediction"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"file_id": "f"}},
        {"type": "video_url", "video_url": {"url": "https://example.invalid/a.mp4"}},
    ],
)
async def test_what_no_model_reads_is_refused_by_its_place(part: dict[str, Any]):
    body = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, part]}]}
    async with StubServer() as engine, serving(vllm(engine)) as served:
        status, text, _ = await post_json(served, CHAT, body)
        assert (status, engine.bodies) == (400, [])
        assert json.loads(text)["error"]["param"] == "messages[0].content[1].type"
        status, text, headers = await post_json(served, CHAT, body, **{"X-Miner-Unsupported": "skip"})
        assert (status, headers["x-miner-ignored-params"]) == (200, "messages.content.type"), text


async def test_stream_options_may_be_null():
    options = {"include_usage": None, "include_obfuscation": None, "continuous_usage_stats": None}
    async with StubServer() as engine, serving(vllm(engine)) as served:
        body = {"model": "m", "messages": USER, "stream": True, "stream_options": options}
        status, text, _ = await post_json(served, CHAT, body)
        assert status == 200, text
        assert "usage" not in text


@pytest.mark.parametrize("path", BODIES)
async def test_fields_that_vllm_knows_reach_it(path: str):
    sent = {"min_tokens": 3, "ignore_eos": True, "stop_token_ids": [5], "skip_special_tokens": False}
    async with StubServer() as engine, serving(vllm(engine)) as served:
        status, text, headers = await post_json(served, path, {"model": "m", **BODIES[path], **sent})
        assert (status, headers.get("x-miner-ignored-params")) == (200, None), text
        assert {name: engine.bodies[-1][name] for name in sent} == sent
        more = {"priority": 5, "return_token_ids": True}
        _, _, headers = await post_json(served, path, {"model": "m", **BODIES[path], **more})
        assert headers["x-miner-ignored-params"] == "priority, return_token_ids"
        assert not more.keys() & engine.bodies[-1].keys()


async def test_what_vllm_knows_of_conversations_alone_is_refused_beside_a_prompt():
    documents = {"documents": [{"text": "x"}]}
    async with StubServer() as engine, serving(vllm(engine)) as served:
        status, text, _ = await post_json(served, "/v1/completions", {"model": "m", "prompt": "x", **documents})
        assert (status, "documents" in text, engine.bodies) == (400, True, [])
        status, text, _ = await post_json(served, CHAT, {"model": "m", "messages": USER, **documents})
        assert (status, engine.bodies[-1]["documents"]) == (200, documents["documents"]), text


async def test_other_variables_of_the_template_go_to_engines_that_take_them():
    body = {"model": "m", "messages": USER, "chat_template_kwargs": {"enable_thinking": False, "builtin": ["a"]}}
    async with StubServer() as engine, serving(vllm(engine)) as served:
        status, text, _ = await post_json(served, CHAT, body)
        assert status == 200, text
        assert engine.bodies[-1]["chat_template_kwargs"] == {"builtin": ["a"]}
        assert engine.bodies[-1]["reasoning_effort"] == "none"
    async with StubServer() as engine, serving(OllamaService(settings(ollama_base_url=engine.url))) as served:
        status, text, headers = await post_json(served, CHAT, body)
        assert (status, headers["x-miner-ignored-params"]) == (200, "chat_template_kwargs"), text


GUIDED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"guided_regex": "a+"}, {"structured_outputs": {"regex": "a+"}}),
    ({"structured_outputs": {"regex": "a+"}}, {"structured_outputs": {"regex": "a+"}}),
    ({"guided_grammar": 'root ::= "a"'}, {"structured_outputs": {"grammar": 'root ::= "a"'}}),
    ({"guided_choice": ["yes", 'a"b']}, {"structured_outputs": {"grammar": 'root ::= "yes" | "a\\"b"'}}),
    ({"structured_outputs": {"json_object": True}}, {"response_format": {"type": "json_object"}}),
]


@pytest.mark.parametrize(("sent", "wanted"), GUIDED)
@pytest.mark.parametrize("path", BODIES)
async def test_guided_output_becomes_the_output_format(path: str, sent: dict[str, Any], wanted: dict[str, Any]):
    async with StubServer(reply="{}") as engine, serving(vllm(engine)) as served:
        await post_json(served, path, {"model": "m", **BODIES[path], **sent})
        assert wanted.items() <= engine.bodies[-1].items()
    async with StubServer() as engine, serving(OllamaService(settings(ollama_base_url=engine.url))) as served:
        status, text, _ = await post_json(served, path, {"model": "m", **BODIES[path], **sent})
        name = next(iter(sent)) if "structured_outputs" not in sent else "structured_outputs."
        assert status == 400 or "json_object" in str(sent)
        assert status != 400 or name in text


@pytest.mark.engine
@pytest.mark.parametrize("path", BODIES)
async def test_guided_output_of_a_real_engine(path: str):
    async with serving(LlamaCppService(config(default_model="demo"))) as served:
        for sent, allowed in (
            ({"guided_choice": ["apple pie", "pear"]}, ("apple pie", "pear")),
            ({"structured_outputs": {"choice": ["red", "green"]}}, ("red", "green")),
            ({"guided_json": json.dumps(SCHEMA)}, ({"a": True}, {"a": False})),
            ({"guided_json": SCHEMA}, ({"a": True}, {"a": False})),
        ):
            body = {"model": "demo", **BODIES[path], **sent, "max_tokens": 200}
            status, text, _ = await post_json(served, path, body)
            assert status == 200, text
            choice = json.loads(text)["choices"][0]
            said = choice["message"]["content"] if path == CHAT else choice["text"]
            assert (json.loads(said) if said.startswith("{") else said) in allowed


FUNCTION = {"name": "weather", "description": "w", "parameters": {"type": "object", "properties": {}}}
CALL = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


async def test_functions_are_tools_and_come_back_as_function_calls():
    history = [
        *USER,
        {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}},
        {"role": "function", "name": "weather", "content": "warm"},
    ]
    body = {"model": "m", "messages": history, "functions": [FUNCTION], "function_call": {"name": "weather"}}
    reply = openai_reply("", finish_reason="tool_calls", tool_calls=[CALL])
    async with StubServer(reply=reply) as engine, serving(vllm(engine)) as served:
        status, text, headers = await post_json(served, CHAT, body)
        assert (status, headers.get("x-miner-ignored-params")) == (200, None), text
        sent = engine.bodies[-1]
        engine.reply = [delta(tool_calls=[{"index": 0, **CALL}]), finish("tool_calls"), usage_chunk()]
        _, events, _ = await post_json(served, CHAT, {**body, "stream": True})
    choice = json.loads(text)["choices"][0]
    assert choice["message"]["function_call"] == {"name": "weather", "arguments": "{}"}
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "function_call"
    assert '"delta":{"function_call":{"name":"weather","arguments":"{}"}}' in events
    assert '"finish_reason":"function_call"' in events
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert sent["messages"][1]["tool_calls"][0]["id"] == sent["messages"][2]["tool_call_id"]


async def test_an_error_in_functions_names_them():
    body = {"model": "m", "messages": USER, "functions": [FUNCTION, {"name": 3}]}
    async with StubServer() as engine, serving(vllm(engine)) as served:
        status, text, _ = await post_json(served, CHAT, body)
        assert (status, engine.bodies) == (400, [])
    assert json.loads(text)["error"]["param"].startswith("functions[1]")


async def test_integral_numbers_in_any_place_are_integers():
    body = {
        "model": "m", "messages": USER, "max_tokens": 8.0, "top_k": 3.0, "n": 1.0, "seed": 5.0, "min_tokens": 2.0,
        "logit_bias": {"5": 1.0}, "top_logprobs": 2.0, "logprobs": True,
    }  # fmt: skip
    async with StubServer() as engine, serving(vllm(engine)) as served:
        status, text, _ = await post_json(served, CHAT, body)
        assert status == 200, text
        sent = engine.bodies[-1]
        assert [sent[name] for name in ("max_tokens", "top_k", "seed", "min_tokens", "top_logprobs")] == [8, 3, 5, 2, 2]
        assert all(type(sent[name]) is int for name in ("max_tokens", "top_k", "seed", "min_tokens"))
        status, text, _ = await post_json(
            served, "/v1/completions", {"model": "m", "prompt": [5.0, 6.0], "max_tokens": 4.0, "logprobs": 0.0}
        )
        assert (status, engine.bodies[-1]["prompt"]) == (200, [5, 6]), text


@pytest.mark.parametrize("name", ["a\r\nx-injected: b", "ü", "a,b", "\x00", "x" * 99])
async def test_no_name_of_a_field_breaks_the_header(name: str):
    async with serving(Parrot(config())) as served:
        for body in ({name: 1}, {"messages": [{"role": "user", "content": "x", name: 1}]}):
            status, text, headers = await post_json(served, CHAT, {"model": "m", "messages": USER, **body})
            assert status in (200, 400), text
            assert "x-injected" not in headers


async def test_the_list_of_ignored_fields_is_bounded():
    messages = [{"role": "user", "content": "x", f"field{number}": 1} for number in range(3000)]
    async with serving(Parrot(config())) as served:
        status, text, headers = await post_json(served, CHAT, {"model": "m", "messages": messages})
    assert status == 400, text
    assert len(str(headers)) < 4000
