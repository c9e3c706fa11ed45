"""Fields of llama.cpp's server in OpenAI's bodies, over a real engine."""

from __future__ import annotations

import json

import pytest

from miner.core.llms.llm_llamacpp import LlamaCppService
from tests.gateway.apis.llamacpp.test_native import sent, service
from tests.gateway.serving import config, post, serving, vllm
from tests.servers.openai_stub import StubServer

engine = pytest.mark.engine
USER = [{"role": "user", "content": "abc def"}]


async def chat(served, path="/v1/chat/completions", **fields):
    return await sent(served, path, {"messages": USER, "max_tokens": 4, **fields})


async def chunks(served, path="/v1/chat/completions", **fields):
    body = {"messages": USER, "prompt": "abc def", "max_tokens": 4, "stream": True, **fields}
    body.pop("prompt" if "chat" in path else "messages")
    async with post(served, body, path) as answer:
        assert answer.status == 200, await answer.text()
        text = await answer.text()
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@engine
async def test_formats():
    demo = LlamaCppService(config(llamacpp_ctx_size=512, llamacpp_parallel=1, llamacpp_threads=1))
    async with demo as backend, serving(backend) as served:
        _, grammar = await chat(served, grammar='root ::= "a"{3,3}', max_tokens=None, n_predict=9)
        _, schema = await chat(served, json_schema={"const": "42"}, max_tokens=20)
        assert grammar["choices"][0]["message"]["content"] == "aaa"
        assert schema["choices"][0]["message"]["content"] == '"42"'
        for fields, param in (
            ({"grammar": "root ::= this is (not"}, "grammar"),
            ({"json_schema": {"type": "hiccup"}}, "json_schema"),
            ({"json_schema": {"const": 1}, "grammar": "root ::= x"}, "json_schema"),
        ):
            status, refused = await chat(served, **fields)
            assert (status, refused["error"]["param"]) == (400, param)


@engine
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_timings_and_progress(tmp_path, path):
    async with service(tmp_path, llamacpp_batch_size=32) as backend, serving(backend) as served:
        events = await chunks(
            served, path, timings_per_token=True, return_progress=True, stream_options={"include_usage": True}
        )
        plain = await chunks(served, path)
        body = {"messages": USER} if "chat" in path else {"prompt": "abc def"}
        _, whole = await sent(served, path, {**body, "max_tokens": 4, "timings_per_token": True})
    reports = [event["prompt_progress"] for event in events if "prompt_progress" in event]
    assert reports[-1]["processed"] == reports[-1]["total"] > 0
    assert {report["cache"] for report in reports} == {reports[0]["processed"]}
    for timings in (events[-1]["timings"], whole["timings"]):
        assert timings["predicted_n"] == 4
        assert timings["prompt_per_second"] >= 0 < timings["predicted_per_second"]
    assert events[-1]["timings"]["prompt_n"] + events[-1]["timings"]["cache_n"] == events[-1]["usage"]["prompt_tokens"]
    assert not any("timings" in event or "prompt_progress" in event for event in plain)


@engine
async def test_fields_that_the_engine_knows_reach_it(tmp_path):
    async with service(tmp_path) as backend, serving(backend) as served:
        _, one = await chat(served, temperature=1.5, seed=3, samplers=["temperature"], max_tokens=8)
        _, other = await chat(served, temperature=1.5, seed=3, samplers=["top_k"], top_k=1, max_tokens=8)
        assert one["choices"][0]["message"]["content"] != other["choices"][0]["message"]["content"]
        status, refused = await chat(served, mirostat="x")
        assert status == 400
        assert "mirostat" in refused["error"]["message"]
        status, refused = await chat(served, add_generation_prompt=True, continue_final_message=True)
        assert status == 400
        body = {"messages": USER, "max_tokens": 2, "cache_prompt": False, "id_slot": 0, "dry_multiplier": 0.5}
        async with post(served, body) as answer:
            assert answer.status == 200
            assert "x-miner-ignored-params" not in answer.headers


@engine
async def test_nothing_is_generated(tmp_path):
    async with service(tmp_path) as backend, serving(backend) as served:
        status, reply = await chat(served, max_tokens=0)
        events = await chunks(served, max_tokens=0)
    assert (status, reply["choices"][0]["message"]["content"], reply["choices"][0]["finish_reason"]) == (
        200,
        "",
        "length",
    )
    assert "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"]) == ""


@engine
async def test_n_probs_overflow_and_token_counts(tmp_path):
    async with service(tmp_path) as backend, serving(backend) as served:
        _, reply = await chat(served, n_probs=3)
        assert len(reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 3
        for path in ("/v1/chat/completions/input_tokens", "/chat/completions/input_tokens"):
            status, counted = await chat(served, path)
            assert (status, counted["input_tokens"]) == (200, reply["usage"]["prompt_tokens"])
        long = [{"role": "user", "content": "a" * 600}]
        for path, kind in (("/v1", "invalid_request_error"), ("", "exceed_context_size_error")):
            status, refused = await chat(served, f"{path}/chat/completions", messages=long)
            error = refused["error"]
            assert (status, error["type"], error["code"]) == (400, kind, "context_length_exceeded")
            assert error["n_prompt_tokens"] > error["n_ctx"] == 512


async def test_progress_and_timings_are_no_error_where_there_are_none():
    async with StubServer() as engine_, serving(vllm(engine_)) as served:
        events = await chunks(served, model="m", return_progress=True, timings_per_token=True)
        assert "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])
