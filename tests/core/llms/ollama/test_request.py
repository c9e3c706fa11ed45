"""The exact bodies that go to Ollama, held against Ollama's own OpenAPI file."""

from __future__ import annotations

from typing import Any

import pytest

from miner.errors import (
    OutputValidationError,
    UnsupportedFeatureError,
)
from tests.core.llms.contract.test_failures import MODES
from tests.core.services import MESSAGES, WEATHER, read, speaking_to, text_of
from tests.servers.openai_stub import StubServer

SAMPLING = {
    "num_predict": 512, "temperature": 0.7, "top_p": 0.95, "top_k": 1000, "min_p": 0.0, "repeat_penalty": 1.0,
    "presence_penalty": 0.0, "frequency_penalty": 0.0,
}  # fmt: skip
"""All of sampling is always sent, neutral where nothing was asked for."""
PLAIN = {
    "model": "m:latest", "stream": True, "options": SAMPLING, "truncate": False, "shift": False,
    "messages": [{"role": "user", "content": "hi"}],
}  # fmt: skip
"""`truncate` and `shift`: nothing is cut silently."""
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
    """A different num_ctx would make Ollama load the model again."""
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


async def test_a_gap_is_filled_by_the_models_own_template():
    """Ollama ignores the suffix of a raw request."""
    async with StubServer(capabilities=["completion", "insert"]) as server, ollama(server) as service:
        for raw in (False, True):
            assert await service.generate("Once", suffix=" the end", raw=raw) == "Hello there."
        expected = {name: value for name, value in PLAIN.items() if name != "messages"}
        assert server.bodies == [expected | {"prompt": "Once", "suffix": " the end"}] * 2
        assert {request.path for request in server.generations} == {"/api/generate"}


@pytest.mark.parametrize(
    ("reasoning", "think"), [(None, True), (True, True), (False, False), ("low", "low"), ("high", "high")]
)
async def test_a_model_that_thinks_is_told_whether_to(reasoning: Any, think: Any):
    """It thinks unless told otherwise; so we always tell."""
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
    """`think` is an error there."""
    async with StubServer() as server, ollama(server) as service:
        await service.generate("hi", reasoning=False)
        assert "think" not in server.bodies[0]
        with pytest.raises(UnsupportedFeatureError, match="'m:latest' does not support reasoning"):
            await service.generate("hi", reasoning=True)


async def test_a_conversation_in_ollamas_form():
    """Text as text, images apart, arguments as objects, tools' turns by name."""
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
    """Whether it is continued depends on the template."""
    async with StubServer() as server, ollama(server) as service:
        for mode in MODES:
            stream = service.stream(messages=[*MESSAGES, {"role": "assistant", "content": "Sure"}])
            with pytest.raises(UnsupportedFeatureError) as caught:
                await (stream.collect() if mode == "stream" else read(stream))
            assert caught.value.param == "messages[1].role"
        assert server.bodies == []
