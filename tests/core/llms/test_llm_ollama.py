"""OllamaService on the wire: the exact bodies that it sends (held against Ollama's own OpenAPI file), and its ways."""

from __future__ import annotations

from typing import Any

import pytest

from miner.core.wire import TokenLogprob
from miner.errors import (
    BackendProtocolError,
    ContextLengthError,
    InvalidRequestError,
    ModelNotFoundError,
    OutputValidationError,
    UnsupportedFeatureError,
)
from tests.core.llms.contract.test_failures import MODES, Faulty
from tests.core.services import MESSAGES, WEATHER, ask, read, speaking_to, text_of
from tests.servers import faults
from tests.servers.openai_stub import StubServer
from tests.servers.replay import ReplayServer

SAMPLING = {
    "num_predict": 512, "temperature": 0.7, "top_p": 0.95, "top_k": 1000, "min_p": 0.0, "repeat_penalty": 1.0,
    "presence_penalty": 0.0, "frequency_penalty": 0.0,
}  # fmt: skip
"""Pitfall 16: all of sampling is always sent, neutral where nothing was asked for."""
PLAIN = {
    "model": "m:latest", "stream": True, "options": SAMPLING, "truncate": False, "shift": False,
    "messages": [{"role": "user", "content": "hi"}],
}  # fmt: skip
"""`truncate` and `shift`: nothing is cut silently (protocol notes, 3.4)."""
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def ollama(server: Any, **given: Any) -> Any:
    return speaking_to("ollama", server, **given)


async def test_the_exact_body_of_each_verb():
    async with StubServer() as server, ollama(server) as service:
        await service.generate("hi")
        await service.chat_completion(MESSAGES)
        await read(service.stream("hi"))
        await read(service.stream(messages=MESSAGES))
        assert server.bodies == [PLAIN] * 4
        assert {request.path for request in server.generations} == {"/api/chat"}


OPTIONS: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"max_tokens": 7, "temperature": 0, "top_p": 1}, {"num_predict": 7, "temperature": 0, "top_p": 1, "top_k": 1}, {}),
    ({"top_p": 1}, {"top_p": 1, "top_k": 0}, {}),
    ({"stop": ["b", "END"]}, {}, {}),  # watched for on our side
    ({"seed": 0}, {"seed": 0}, {}),
    ({"top_k": 40, "min_p": 0.05}, {"top_k": 40, "min_p": 0.05}, {}),
    ({"repeat_penalty": 1.2}, {"repeat_penalty": 1.2}, {}),
    ({"presence_penalty": 0.5, "frequency_penalty": -0.5}, {"presence_penalty": 0.5, "frequency_penalty": -0.5}, {}),
    ({"logprobs": True}, {}, {"logprobs": True, "top_logprobs": 1}),  # without one nothing comes; it is left out again
    ({"logprobs": 5}, {}, {"logprobs": True, "top_logprobs": 5}),
    ({"response_format": {"type": "json_object"}}, {}, {"format": "json"}),
    ({"response_format": SCHEMA}, {}, {"format": SCHEMA}),
    ({"reasoning": False}, {}, {}),
    ({"tools": [WEATHER]}, {}, {"tools": [WEATHER]}),
    ({"tools": [WEATHER], "tool_choice": "auto"}, {}, {"tools": [WEATHER]}),
    ({"tools": [WEATHER], "tool_choice": "none"}, {}, {}),
    ({"keep_alive": 60}, {}, {"keep_alive": 60}),
    ({"keep_alive": "10m"}, {}, {"keep_alive": "10m"}),
    ({"keep_alive": 0}, {}, {"keep_alive": 0}),
    ({"extra": {"options": {"num_ctx": 1024, "num_thread": 2}}}, {"num_ctx": 1024, "num_thread": 2}, {}),
    ({"timeout": 30}, {}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("given", "options", "fields"), OPTIONS, ids=lambda item: "+".join(item) if item else "none")
async def test_the_exact_body_of_each_option(given: dict[str, Any], options: dict[str, Any], fields: dict[str, Any]):
    async with StubServer(reply="a") as server, ollama(server) as service:
        for mode in MODES:
            try:
                if mode == "call":
                    await service.chat_completion(MESSAGES, **given)
                else:
                    await service.stream(messages=MESSAGES, **given).collect()
            except OutputValidationError:
                pass  # the answer here is always the same; the request is what counts
        expected = PLAIN | fields | {"options": SAMPLING | options}
        assert server.bodies == [expected, expected]


async def test_a_models_context_is_asked_for_alike_in_every_request():
    """A different num_ctx would make Ollama load the model again (protocol notes, 3.3)."""
    async with StubServer() as server, ollama(server, ollama_num_ctx=1024) as service:
        await service.generate("hi")
        await service.generate("hi", raw=True)
        await read(service.stream("hi"))
        assert [body["options"]["num_ctx"] for body in server.bodies] == [1024] * 3


async def test_a_raw_prompt_goes_past_the_template():
    async with StubServer() as server, ollama(server) as service:
        assert await service.generate("Once", raw=True) == "Hello there."
        assert text_of(await read(service.stream("Once", raw=True))) == "Hello there."
        expected = {name: value for name, value in PLAIN.items() if name != "messages"} | {
            "prompt": "Once",
            "raw": True,
        }
        assert server.bodies == [expected, expected]
        assert {request.path for request in server.generations} == {"/api/generate"}


@pytest.mark.parametrize(
    ("reasoning", "think"), [(None, True), (True, True), (False, False), ("low", "low"), ("high", "high")]
)
async def test_a_model_that_thinks_is_told_whether_to(reasoning: Any, think: Any):
    """Pitfall 18: it thinks unless told otherwise; so we always tell."""
    async with StubServer(capabilities=["completion", "thinking"]) as server, ollama(server) as service:
        await service.generate("hi", reasoning=reasoning)
        assert server.bodies[0]["think"] == think


@pytest.mark.parametrize(("level", "think"), [("minimal", "low"), ("xhigh", "high"), ("max", "high")])
async def test_a_level_of_thinking_that_ollama_lacks_is_the_nearest_and_is_listed(level: str, think: str):
    async with StubServer(capabilities=["completion", "thinking"]) as server, ollama(server) as service:
        response = await service.chat_completion(MESSAGES, reasoning=level)
        assert response.ignored == ["reasoning"]
        stream = service.stream("hi", reasoning=level)
        await read(stream)
        assert stream.response.ignored == ["reasoning"]
        assert [body["think"] for body in server.bodies] == [think, think]
        assert (await service.chat_completion(MESSAGES, reasoning="low")).ignored == []


async def test_on_a_model_that_does_not_think_nothing_is_said_of_it():
    """`think` is an error there (protocol notes, 3.3)."""
    async with StubServer() as server, ollama(server) as service:
        await service.generate("hi", reasoning=False)
        assert "think" not in server.bodies[0]
        with pytest.raises(UnsupportedFeatureError, match="'m:latest' does not support reasoning"):
            await service.generate("hi", reasoning=True)


async def test_a_conversation_in_ollamas_form():
    """Pitfall 4 and protocol notes, 3.1: text as text, images apart, arguments as objects, tools' turns by name."""
    conversation = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [
            {"id": "c0", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}]},
        {"role": "tool", "tool_call_id": "c0", "content": "18"},
    ]  # fmt: skip
    async with StubServer() as server, ollama(server) as service:
        await service.chat_completion(conversation, tools=[WEATHER])
        assert server.bodies[0]["messages"] == [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "ab"},
            {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [
                {"id": "c0", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}]},
            {"role": "tool", "content": "18", "tool_call_id": "c0", "tool_name": "get_weather"},
        ]  # fmt: skip


async def test_an_assistants_turn_at_the_end_is_refused():
    """Pitfall 19: whether it is continued depends on the template."""
    async with StubServer() as server, ollama(server) as service:
        for mode in MODES:
            stream = service.stream(messages=[*MESSAGES, {"role": "assistant", "content": "Sure"}])
            with pytest.raises(UnsupportedFeatureError) as caught:
                await (stream.collect() if mode == "stream" else read(stream))
            assert caught.value.param == "messages[1].role"
        assert server.bodies == []


REPLIES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("chat", {}, {"content": "The capital of France is Paris.", "finish_reason": "stop"}),
    ("chat_stream", {}, {"content": "The capital of France is Paris.", "finish_reason": "stop"}),
    ("chat_length_stream", {"max_tokens": 3}, {"finish_reason": "length", "context_exhausted": False}),
    ("context_exhausted_shift_false", {"max_tokens": 600}, {"finish_reason": "length", "context_exhausted": True}),
    ("context_exhausted_shift_false_stream", {"max_tokens": 600}, {"finish_reason": "length",
                                                                    "context_exhausted": True}),
    ("chat_stop_stream", {"stop": "Par"}, {"content": "The capital of France is ", "finish_reason": "stop"}),
    ("chat_think", {"model": "smollm2-think"}, {"content": "", "reasoning": "The capital of France is Paris."}),
    ("chat_think_stream", {"model": "smollm2-think"}, {"content": "", "reasoning": "The capital of France is Paris."}),
    ("chat_tools", {"model": "smollm2-tools", "tools": [WEATHER]}, {"content": "", "finish_reason": "tool_calls"}),
    ("chat_tools_stream", {"model": "smollm2-tools", "tools": [WEATHER]}, {"finish_reason": "tool_calls"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "fields"), REPLIES, ids=[name for name, _, _ in REPLIES])
async def test_recorded_replies(name: str, options: dict[str, Any], fields: dict[str, Any]):
    async with ReplayServer("ollama") as server, ollama(server, default_model="smollm2") as service:
        server.answer(name)
        given = {"messages": MESSAGES, **options}
        response = await (service.stream(**given).collect() if "stream" in name
                          else service.chat_completion(given.pop("messages"), **given))  # fmt: skip
        assert {field: getattr(response, field) for field in fields} == fields
        assert response.usage.prompt_tokens > 0
        assert response.usage.total_tokens == response.usage.prompt_tokens + response.usage.completion_tokens
        assert response.timings.prefill is not None
        assert 0 < response.timings.prefill < 10
        assert response.timings.decode is not None
        assert response.backend == "ollama"


@pytest.mark.parametrize("name", ["chat_tools_parallel", "chat_tools_parallel_stream"])
async def test_parallel_calls_come_whole_with_their_indices(name: str):
    async with ReplayServer("ollama") as server, ollama(server) as service:
        server.answer(name, times=2)
        given: dict[str, Any] = {"model": "smollm2-tools", "tools": [WEATHER]}
        for one in (False, True):
            options = given | ({"parallel_tool_calls": False} if one else {})
            response = await (service.stream(messages=MESSAGES, **options).collect() if "stream" in name
                              else service.chat_completion(MESSAGES, **options))  # fmt: skip
            assert [call["function"] for call in response.tool_calls] == [
                {"name": "get_weather", "arguments": '{"city":"New York"}'}
            ] * (1 if one else 2)
            assert all(call["id"].startswith("call_") and call["type"] == "function" for call in response.tool_calls)
            assert response.finish_reason == "tool_calls"


@pytest.mark.parametrize("name", ["chat_logprobs", "chat_logprobs_stream"])
async def test_recorded_logprobs(name: str):
    async with ReplayServer("ollama") as server, ollama(server, default_model="smollm2") as service:
        server.answer(name)
        request = {"logprobs": 2, "max_tokens": 4}
        response = await (service.stream("hi", **request).collect() if "stream" in name
                          else service.chat_completion(MESSAGES, **request))  # fmt: skip
        assert response.logprobs is not None
        assert len(response.logprobs) == response.usage.completion_tokens
        assert "".join(entry.token for entry in response.logprobs) == response.content
        first = response.logprobs[0]
        assert isinstance(first, TokenLogprob)
        assert bytes(first.bytes or ()).decode() == first.token
        assert len(first.alternatives) == 2


def line(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "created_at": "2026-11-22T00:00:00Z", **fields}


def said(text: str, **fields: Any) -> dict[str, Any]:
    return line(message={"role": "assistant", "content": text, **fields}, done=False)


async def test_text_and_calls_on_the_last_line_are_not_lost():
    """Protocol notes, 3.2: with native templates the calls ride on the `done:true` line."""
    calls = [{"function": {"name": "get_weather", "arguments": {"city": "Rome"}}}]
    last = line(message={"role": "assistant", "content": "Done.", "tool_calls": calls}, done=True, done_reason="stop",
                eval_count=3)  # fmt: skip
    async with StubServer(reply=[said("Well. "), last]) as server, ollama(server) as service:
        response = await service.stream("hi", tools=[WEATHER]).collect()
    assert response.content == "Well. Done."
    assert [call["function"]["arguments"] for call in response.tool_calls or ()] == ['{"city":"Rome"}']
    assert (response.tool_calls or [])[0]["id"]
    assert response.finish_reason == "tool_calls"


async def test_counts_of_zero_are_left_out_on_the_wire():
    """Pitfall 7."""
    async with StubServer(reply=[said("a"), line(done=True)]) as server, ollama(server) as service:
        response = await service.stream("hi").collect()
    assert (response.content, response.finish_reason, response.usage) == ("a", "stop", None)


async def test_lines_that_say_nothing_are_no_chunks():
    lines = [said(""), said("a"), b"\n", said("", tool_calls=[]), line(done=True, eval_count=1)]
    async with StubServer(reply=lambda _: list(lines)) as server, ollama(server) as service:
        chunks = await read(service.stream("hi"))
    assert [(chunk.content, chunk.finish_reason) for chunk in chunks] == [("a", None), (None, "stop")]


@pytest.mark.parametrize("mode", MODES)
async def test_a_call_of_a_tool_that_was_not_offered_is_no_success(mode: str):
    calls = [{"id": "x", "function": {"name": "get_time", "arguments": {}}}]
    last = line(message={"role": "assistant", "content": "", "tool_calls": calls}, done=True, done_reason="stop")
    async with StubServer(reply=lambda body: [last] if body["stream"] else last) as server, ollama(server) as service:
        with pytest.raises(OutputValidationError, match="a tool 'get_time' that is not in tools"):
            await (service.chat_completion(MESSAGES, tools=[WEATHER]) if mode == "call"
                   else service.stream(messages=MESSAGES, tools=[WEATHER]).collect())  # fmt: skip


async def test_models_and_what_each_can():
    async with ReplayServer("ollama") as server, ollama(server) as service:
        models = await service.list_models()
        assert {model.id for model in models} >= {"smollm2:latest", "smollm2-tools:latest"}
        assert all(model.size and model.digest for model in models)
        assert ("smollm2" in models[0].aliases) or models[0].aliases
        can = {name: (await service._get_model(name)).capabilities for name in
               ("smollm2", "smollm2-tools", "smollm2-think", "smollm2-embed")}  # fmt: skip
        assert ["tools" in can[name] for name in can] == [False, True, False, False]
        assert ["reasoning" in can[name] for name in can] == [False, False, True, False]
        assert ["embeddings" in can[name] for name in can] == [False, False, False, True]
        assert "chat" not in can["smollm2-embed"]
        info = await service._get_model("smollm2")
        assert (info.context_length, info.dimensions, info.quantization) == (8192, 576, "Q4_1")
        assert (info.architecture, info.parameters) == ("llama", 134515008)
        with pytest.raises(UnsupportedFeatureError, match="'smollm2-embed'"):
            await service.generate("hi", model="smollm2-embed")


async def test_a_model_that_is_not_pulled_says_how_to_get_it():
    async with ReplayServer("ollama") as server, ollama(server) as service:
        for mode in MODES:
            with pytest.raises(ModelNotFoundError) as caught:
                await ask(service, mode, model="no-such-model")
            assert caught.value.model == "no-such-model"
            assert "smollm2:latest" in caught.value.available
            assert "`ollama pull no-such-model`" in str(caught.value)
            assert "smollm2:latest" in str(caught.value)
            assert server.url in str(caught.value)
        with pytest.raises(ModelNotFoundError, match="several models and none was named"):
            await service.generate("hi")


async def test_no_model_at_all():
    async with StubServer(side={"/api/tags": {"models": []}}) as server, ollama(server) as service:
        with pytest.raises(ModelNotFoundError, match=r"no model and none was named\. Pull one with `ollama pull NAME`"):
            await service.generate("hi")
        health = await service.health()
        assert (health.state, health.reason) == ("unavailable", "ollama has no model.")


CLOUD = {"name": "big:cloud", "model": "big:cloud", "remote_host": "https://ollama.example", "remote_model": "big"}


async def test_a_model_that_runs_elsewhere_is_refused():
    """Pitfall 17: cloud names look local; a prompt must not leave the machine."""
    show = {"details": {}, "model_info": {}, "capabilities": ["completion"], "remote_host": "https://ollama.example"}
    side = {"/api/show": show, "/api/tags": {"models": [CLOUD]}}
    async with StubServer(side=side) as server, ollama(server) as service:
        for mode in MODES:
            with pytest.raises(UnsupportedFeatureError, match=r"runs on https://ollama\.example, not on this"):
                await ask(service, mode, model="big:cloud")
        assert await service.list_models() == []
        assert not await service.health_check()
        assert server.bodies == []


async def test_a_prompt_that_does_not_fit_is_an_error_with_both_numbers():
    async with ReplayServer("ollama") as server, ollama(server, default_model="smollm2") as service:
        for name, mode in (("overflow_chat_truncate_shift_false", "call"),
                           ("overflow_chat_truncate_shift_false_stream", "stream"),
                           ("overflow_generate_truncate_shift_false", "call")):  # fmt: skip
            server.answer(name)
            with pytest.raises(ContextLengthError) as caught:
                await ask(service, mode, raw="generate" in name)
            assert (caught.value.prompt_tokens, caught.value.context_length) == (9010, 4096)


async def test_embeddings():
    async with ReplayServer("ollama") as server, ollama(server) as service:
        server.answer("embed")
        vectors = await service.embed(["hello", "good morning"], model="smollm2-embed")
        assert (len(vectors.data), vectors.dimensions, vectors.usage.prompt_tokens) == (2, 576, 3)
        assert server.sent("/api/embed")[0].json == {
            "model": "smollm2-embed", "input": ["hello", "good morning"], "truncate": False,
        }  # fmt: skip
        with pytest.raises(UnsupportedFeatureError, match="'smollm2' does not support embeddings"):
            await service.embed("hello", model="smollm2")
        server.answer("embed_truncate_false")
        with pytest.raises(ContextLengthError, match="exceeds the context length"):
            await service.embed("word", model="smollm2-embed")
        server.answer("embed_empty_string")
        with pytest.raises(BackendProtocolError, match="sent 0 embeddings for 1 texts"):
            await service.embed("x", model="smollm2-embed")
        for wrong in ("", [], ["a", ""], 5):
            with pytest.raises(InvalidRequestError, match="texts must be"):
                await service.embed(wrong, model="smollm2-embed")


async def test_health(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("miner.core.llms.llm_ollama._HEALTH_SECONDS", 0.4)
    async with ReplayServer("ollama") as server:
        for default, healthy in ((None, True), ("smollm2", True), ("smollm2:latest", True), ("other", False)):
            async with ollama(server, default_model=default) as service:
                health = await service.health()
                assert bool(health) is healthy
                assert "smollm2:latest" in health.models
                if not healthy:
                    assert "`ollama pull other`" in (health.hint or "")
        assert {request.path for request in server.requests} == {"/api/tags"}  # it loads nothing
    for behaviour in (faults.silent(), faults.status(503, everywhere=True), faults.not_json(everywhere=True),
                      faults.html_page(404, everywhere=True)):  # fmt: skip
        async with Faulty(behaviour) as broken, ollama(broken) as service:
            assert not await service.health_check()
            health = await service.health()
            assert (health.state, bool(health.reason), bool(health.hint)) == ("unavailable", True, True)
            assert "300 s" not in str(health)
