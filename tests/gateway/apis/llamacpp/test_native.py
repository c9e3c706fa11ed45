"""llama.cpp's own routes over a real engine, and over backends that have none."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.gateway.rate_limits import Limits
from tests.gateway.middleware.test_rate_limit import LONG, keys, of, until
from tests.gateway.serving import Parrot, config, post, serving, vllm
from tests.servers.openai_stub import StubServer
from tests.tiny_model import CONTEXT, write_tiny_model

engine = pytest.mark.engine


def service(tmp_path, context=CONTEXT, **given):
    model = write_tiny_model(tmp_path / "tiny.gguf", fim="ids", context=context)
    more = {"llamacpp_ctx_size": 512, "llamacpp_parallel": 2, "llamacpp_threads": 1, **given}
    return LlamaCppService(config(model_path=model, default_model=None, **more))


async def sent(served, path, body, **headers):
    async with post(served, body, path, headers=headers) as answer:
        return answer.status, await answer.json()


async def got(served, path, **headers):
    async with aiohttp.ClientSession() as session, session.get(f"{served.url}{path}", headers=headers) as answer:
        return answer.status, await answer.json()


async def events(served, path, body):
    async with post(served, {**body, "stream": True}, path) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        text = await answer.text()
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line.startswith("data: ")]


@engine
async def test_a_completion_streamed_and_not(tmp_path):
    body = {"prompt": "one two", "n_predict": 6, "temperature": 0, "seed": 3, "return_tokens": True, "n_probs": 2}
    async with service(tmp_path) as backend, serving(backend) as served:
        status, whole = await sent(served, "/completion", body)
        assert status == 200
        streamed = await events(served, "/completions", body)
        progress = await events(served, "/completion", {**body, "return_progress": True})
        _, some = await sent(served, "/completion", {**body, "response_fields": ["content", "timings/prompt_n"]})
    assert [event["stop"] for event in streamed] == [False] * (len(streamed) - 1) + [True]
    assert whole["content"] == "".join(event["content"] for event in streamed) == some["content"]
    assert whole["tokens"] == [token for event in streamed for token in event["tokens"]]
    assert len(whole["tokens"]) == len(whole["completion_probabilities"]) == whole["tokens_predicted"] == 6
    assert whole["generation_settings"]["stream"] is False
    assert {"timings", "stop_type", "truncated", "prompt", "model"} <= set(whole)
    assert not any("prompt_progress" in event for event in streamed)
    assert any("prompt_progress" in event for event in progress)
    assert set(some) == {"content", "timings/prompt_n"}


@engine
async def test_defaults_of_the_settings(tmp_path):
    given = {"llamacpp_n_predict": 3, "llamacpp_temp": 0.0, "llamacpp_seed": 42}
    async with service(tmp_path, **given) as backend, serving(backend) as served:
        _, plain = await sent(served, "/completion", {"prompt": "one"})
        _, other = await sent(served, "/completion", {"prompt": "one", "n_predict": 5, "seed": 1})
        _, props = await got(served, "/props")
    assert props["default_generation_settings"]["params"]["seed"] == 42
    settings = plain["generation_settings"]
    assert (plain["tokens_predicted"], settings["temperature"], settings["seed"]) == (3, 0.0, 42)
    assert (other["tokens_predicted"], other["generation_settings"]["seed"]) == (5, 1)


@engine
async def test_several_prompts_are_several_requests(tmp_path):
    body = {"prompt": ["one", [3, 4, "two"], {"prompt_string": "three"}], "n_predict": 2}
    async with service(tmp_path) as backend, serving(backend) as served:
        status, whole = await sent(served, "/completion", body)
        assert (status, [each["index"] for each in whole]) == (200, [0, 1, 2])
        streamed = await events(served, "/completion", body)
        assert sorted(event["index"] for event in streamed if event["stop"]) == [0, 1, 2]
        status, refused = await sent(served, "/completion", {"prompt": ["a"] * 9, "n": 2})
    assert (status, refused["error"]["type"]) == (400, "invalid_request_error")


@engine
async def test_refusals_in_the_engines_words_and_form(tmp_path):
    async with service(tmp_path) as backend, serving(backend) as served:
        status, long = await sent(served, "/completion", {"prompt": "a" * 600})
        assert status == 400
        assert long["error"]["type"] == "exceed_context_size_error"
        assert long["error"]["n_prompt_tokens"] > long["error"]["n_ctx"] == 512
        for path, body, expected, kind in (
            ("/completion", {"prompt": "a", "grammar": "root ::= x"}, 400, "invalid_request_error"),
            ("/completion", {"prompt": "a", "temperature": "x", "stream": True}, 400, "invalid_request_error"),
            ("/completion", {}, 400, "invalid_request_error"),
            ("/completion", [1], 400, "invalid_request_error"),
            ("/infill", {"input_prefix": "a"}, 400, "invalid_request_error"),
            ("/infill", {"input_prefix": "a", "input_suffix": "b", "input_extra": [{"filename": "f"}]}, 400,
             "invalid_request_error"),
            ("/rerank", {"query": "a", "documents": ["b"]}, 501, "not_supported_error"),
            ("/embedding", {"content": "a"}, 501, "not_supported_error"),
            ("/completion", {"prompt": "a", "model": "other"}, 404, "not_found_error"),
        ):  # fmt: skip
            status, refused = await sent(served, path, body)
            assert (status, refused["error"]["code"], refused["error"]["type"]) == (expected, expected, kind), path


@engine
async def test_infill_has_files_a_prefix_and_a_suffix(tmp_path):
    body = {"input_prefix": "abc", "input_suffix": "xyz", "n_predict": 3, "return_tokens": True}
    async with service(tmp_path) as backend, serving(backend) as served:
        status, plain = await sent(served, "/infill", body)
        assert (status, plain["tokens_predicted"]) == (200, 3)
        status, more = await sent(served, "/infill", {**body, "prompt": "de", "input_extra": []})
        assert more["tokens_evaluated"] > plain["tokens_evaluated"]
        assert (await events(served, "/infill", body))[-1]["tokens_evaluated"] == plain["tokens_evaluated"]


@engine
async def test_tokens_templates_slots_and_properties(tmp_path):
    keys(one=Limits())
    async with service(tmp_path, llamacpp_pooling="mean") as backend, serving(backend) as served:
        assert await got(served, "/health") == (200, {"status": "ok"})  # open, and before any engine runs
        key = of("one")
        _, tokens = await sent(served, "/tokenize", {"content": "Hi"}, **key)
        _, text = await sent(served, "/detokenize", tokens, **key)
        assert text["content"].endswith("Hi")
        messages = [{"role": "user", "content": "Hi"}]
        _, applied = await sent(served, "/apply-template", {"messages": messages}, **key)
        assert "<|im_start|>user\nHi<|im_end|>" in applied["prompt"]
        _, vectors = await sent(served, "/embedding", {"content": ["Hi", "Ho"]}, **key)
        assert [len(each["embedding"][0]) for each in vectors] == [64, 64]
        _, props = await got(served, "/props", **key)
        assert props["model_path"] == "tiny.gguf"
        assert str(tmp_path) not in json.dumps(props)
        _, models = await got(served, "/models", **key)
        assert [(model["id"], model["meta"]["n_ctx"]) for model in models["data"]] == [("tiny", 512)]
        _, slots = await got(served, "/slots?model=tiny", **key)
        assert [slot["is_processing"] for slot in slots] == [False, False]
        assert await got(served, "/lora-adapters", **key) == (200, [])
        for path in ("/props", "/lora-adapters"):
            status, refused = await sent(served, path, {}, **key)  # would change the engine for everybody
            assert (status, refused["error"]["code"]) == (405, "method_not_allowed")
        status, _ = await sent(served, "/tokenize", {"content": "Hi"})
        assert status == 401


@engine
async def test_slots_are_shown_while_all_of_them_are_busy_and_free_after_a_disconnect(tmp_path):
    endless = 100_000  # minutes
    async with service(tmp_path, endless, llamacpp_ctx_size=endless) as backend, serving(backend) as served:

        async def busy():
            _, slots = await got(served, "/slots")
            return sum(slot["is_processing"] for slot in slots)

        body = {"prompt": "one", "n_predict": endless}
        whole = [asyncio.create_task(sent(served, "/completion", body)) for _ in range(2)]
        async with asyncio.timeout(LONG):
            while await busy() < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        for task in whole:
            task.cancel()
        await asyncio.gather(*whole, return_exceptions=True)
        async with asyncio.timeout(20):
            while await busy():  # noqa: ASYNC110
                await asyncio.sleep(0.02)


@engine
async def test_usage_counts_against_the_limit_of_tokens(tmp_path):
    keys(one=Limits(tokens=40), two=Limits())
    async with service(tmp_path) as backend, serving(backend) as served:
        status, reply = await sent(served, "/completion", {"prompt": "one two", "n_predict": 30}, **of("one"))
        assert status == 200
        assert reply["tokens_evaluated"] + reply["tokens_predicted"] >= 40
        status, refused = await sent(served, "/completion", {"prompt": "one", "n_predict": 2}, **of("one"))
        assert (status, refused["error"]["code"]) == (429, 429)
        status, _ = await sent(served, "/completion", {"prompt": "one", "n_predict": 2}, **of("two"))
        assert status == 200
        await until(lambda: not served.gateway.requests)


async def test_on_another_backend_they_say_so():
    async with serving(Parrot(config())) as served:
        for path in ("/completion", "/infill", "/tokenize", "/embedding", "/reranking"):
            status, refused = await sent(served, path, {"prompt": "a", "content": "a"})
            assert (status, refused["error"]["type"]) == (501, "not_supported_error"), path
            assert "parrot does not have the routes of llama.cpp's server" in refused["error"]["message"]
        for path in ("/props", "/slots"):
            assert (await got(served, path))[0] == 501


async def test_tokens_of_a_backend_with_another_form():
    side = {"/tokenize": {"count": 2, "max_model_len": 9, "tokens": [3, 4], "token_strs": ["a", "b"]}}
    async with StubServer(side=side) as engine_, serving(vllm(engine_)) as served:
        status, reply = await sent(served, "/tokenize", {"model": "m", "content": "a b", "add_special": True})
        assert (status, reply) == (200, {"tokens": [3, 4]})
        _, reply = await sent(served, "/tokenize", {"model": "m", "content": "a b", "with_pieces": True})
        assert reply == {"tokens": [{"id": 3, "piece": "a"}, {"id": 4, "piece": "b"}]}
        status, refused = await sent(served, "/tokenize", {"model": "m", "content": 7})
        assert (status, refused["error"]["message"]) == (400, "content must be a string that is not empty.")
        assert (await sent(served, "/tokenize", {"model": "none", "content": "a"}))[0] == 404


async def test_what_openai_has_too_is_openais_on_another_backend():
    async with StubServer() as engine_, serving(vllm(engine_)) as served:
        status, reply = await sent(served, "/completions", {"model": "m", "prompt": "Once"})
        assert (status, reply["object"]) == (200, "text_completion")
