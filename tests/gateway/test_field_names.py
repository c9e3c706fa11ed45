"""A client's mistake is a 4xx with the client's own field, in the client's own dialect, and so is its hint."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from miner.core.llms.llm_ollama import OllamaService
from miner.gateway.field_names import FieldNames
from tests.core.services import settings
from tests.gateway.serving import Served, serving, vllm
from tests.servers.openai_stub import StubServer

ANTHROPIC = {"anthropic-version": "2023-06-01"}
USER = [{"role": "user", "content": "hi"}]
UNIQUE = {"type": "object", "properties": {"l": {"type": "array", "uniqueItems": True}}}


@pytest.mark.parametrize(
    ("param", "field"),
    [
        ("stop", "stop_sequences"),
        ("messages[0]", "system"),
        ("messages[0].content", "system"),
        ("messages[12].content", "messages[11].content"),
        ("tools[3].function.parameters.properties.a", "tools[3].input_schema.properties.a"),
        ("tools[3].function.name", "tools[3].name"),
        ("tools", "tools"),
        ("response_format.json_schema.schema.properties.l", "output_config.format.schema.properties.l"),
        ("stopped", "stopped"),
        ("", ""),
    ],
)
def test_a_parameter_is_the_clients_field(param: str, field: str):
    names = FieldNames(
        {
            "stop": "stop_sequences",
            "messages[0]": "system",
            "messages[0].content": "system",
            "messages[12]": "messages[11]",
            "tools[*].function.parameters": "tools[*].input_schema",
            "tools[*].function": "tools[*]",
            "response_format.json_schema": "output_config.format",
        }
    )
    assert names.of(param) == field


async def post_json(served: Served, path: str, body: Any, **headers: str) -> tuple[int, str, dict[str, str]]:
    async with aiohttp.ClientSession() as session, session.post(served.url + path, json=body, headers=headers) as reply:
        return reply.status, await reply.text(), {name.lower(): value for name, value in reply.headers.items()}


def chat(**fields: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/chat/completions", {"model": "m", "messages": USER, **fields}


def responses(**fields: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/responses", {"model": "m", "input": "hi", **fields}


def anthropic(**fields: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/messages", {"model": "m", "max_tokens": 5, "messages": USER, **fields}


def ollama(**fields: Any) -> tuple[str, dict[str, Any]]:
    return "/api/chat", {"model": "m", "messages": USER, "stream": False, **fields}


CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": [1]}
ROBOT = {"role": "robot", "content": "x"}
THOUGHT = {"type": "reasoning", "summary": []}
F = {"type": "function", "function": {"name": "f"}}
BAD_TEXT = {"role": "user", "content": [{"type": "text", "text": 5}]}
WRONG: list[tuple[tuple[str, dict[str, Any]], str, str]] = [
    (chat(messages=[BAD_TEXT]), "messages[0].content[0].text is not valid", "$"),
    (chat(messages=[{"role": "user", "content": "x", "tool_calls": 1}]), "messages[0].tool_calls", "$"),
    (chat(messages=[ROBOT]), "messages[0].role must be one of system, user, assistant, tool, developer", ""),
    (chat(response_format={"type": "zz"}), "response_format.type must be one of text, json_object", "anyOf"),
    (chat(max_tokens=3, max_completion_tokens=4), "max_tokens 3 and max_completion_tokens 4 differ", ""),
    (chat(tools=[F], tool_choice={"type": "function", "function": {"name": "zz"}}), "tool_choice must be", "{'"),
    (chat(tools=[F], tool_choice={"type": "allowed_tools", "allowed_tools": {"tools": [{"name": "zz"}]}}),
     "tool_choice.allowed_tools.tools[0] must name", "{'"),
    (chat(tools=[{**F, "function": {"name": "f", "strict": True, "parameters": {"type": "any"}}}]),
     "tools[0].function.parameters.type", ""),
    (responses(input=[{"type": "function_call_output", "call_id": "c", "output": {"x": 1}}]), "input[0].output must",
     "$"),
    (responses(input=[{"role": "user", "content": [{"type": "input_text", "text": 5}]}]), "input[0].content[0].text",
     "$"),
    (responses(text={"format": {"type": "zz"}}), "text.format.type must be one of text", "anyOf"),
    (anthropic(tools=[{"name": "f", "input_schema": {}}], tool_choice={"type": "tool", "name": "zz"}),
     "tool_choice.name must be the name of a tool (f)", "function"),
    (anthropic(tools=[{"name": "f", "strict": True, "input_schema": {"properties": {"a": {"type": "any"}}}}]),
     "tools[0].input_schema.properties.a.type", "function"),
    (chat(max_completion_tokens=-5), "max_completion_tokens must be", "max_tokens"),
    (chat(logprobs=True, top_logprobs=99), "top_logprobs must be", ""),
    (chat(repetition_penalty=99), "repetition_penalty must be", ""),
    (responses(input=[]), "input must be", "messages"),
    (responses(max_output_tokens=0), "max_output_tokens must be", "max_tokens must"),
    (responses(instructions="x", input=[*USER, ROBOT]), "input[1].role must be", "messages"),
    (responses(input=[*USER, THOUGHT, CALL]), "input[2].arguments must be", "messages"),
    (responses(tools=[{"type": "function", "name": ""}]), "tools[0].name is missing", "function."),
    (responses(reasoning={"effort": "hard"}), "reasoning.effort must be", ""),
    (responses(text={"format": {"type": "json_schema", "schema": {"type": "x"}}}), "text.format", "response_format"),
    (anthropic(stop_sequences=[""]), "stop_sequences must be", "stop must"),
    (anthropic(max_tokens=0), "max_tokens must be", ""),
    (anthropic(temperature=9), "temperature must be", ""),
    (anthropic(tools=[{"name": "", "input_schema": {}}]), "tools[0].name is missing", "function"),
    (anthropic(output_config={"format": {"type": "json_schema", "schema": {"type": "x"}}}), "output_config.format",
     "response_format"),
    (ollama(options={"temperature": 9}), "options.temperature must be", ""),
    (ollama(options={"stop": [""]}), "options.stop must be", ""),
    (ollama(options={"num_predict": 2**40}), "options.num_predict must be", "max_tokens"),
    (ollama(format={"type": "bogus"}), "format", "response_format"),
    (ollama(logprobs=True, top_logprobs=99), "top_logprobs must be", ""),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "words", "foreign"), WRONG, ids=lambda value: str(value)[:50])
async def test_errors_name_the_field_as_the_client_wrote_it(
    request_: tuple[str, dict[str, Any]], words: str, foreign: str
):
    path, body = request_
    async with StubServer() as engine, serving(vllm(engine)) as served:
        status, text, _ = await post_json(served, path, {**body, "stream": False}, **ANTHROPIC)
        streamed = await post_json(served, path, {**body, "stream": True}, **ANTHROPIC)
        assert engine.bodies == []
    assert status == 400, text
    assert (streamed[0], json.loads(streamed[1])["error"]) == (status, json.loads(text)["error"])
    error = json.loads(text)["error"]
    message = error if isinstance(error, str) else error["message"]
    assert words in message
    assert not foreign or foreign not in message
    if isinstance(error, dict) and "param" in error:
        assert words.split(" ")[0].startswith(error["param"]) or error["param"].startswith(words.split(" ")[0]), error


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": UNIQUE}}),
         "response_format.json_schema.schema.properties.l.uniqueItems"),
        (responses(text={"format": {"type": "json_schema", "name": "x", "schema": UNIQUE}}),
         "text.format.schema.properties.l.uniqueItems"),
        (anthropic(output_config={"format": {"type": "json_schema", "schema": UNIQUE}}),
         "output_config.format.schema.properties.l.uniqueItems"),
        (ollama(format=UNIQUE), "format.properties.l.uniqueItems"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
async def test_what_the_engine_lacks_is_named_and_may_be_ignored_in_every_dialect(
    request_: tuple[str, dict[str, Any]], field: str
):
    path, body = request_
    async with (
        StubServer(reply='{"l": [1, 2]}') as engine,
        serving(OllamaService(settings(ollama_base_url=engine.url))) as served,
    ):
        status, text, _ = await post_json(served, path, body, **ANTHROPIC)
        assert status == 400, text
        assert field in text
        assert "unsupported=" not in text
        assert "X-Miner-Unsupported: skip" in text
        lenient = {"X-Miner-Unsupported": "ignore"}
        status, text, headers = await post_json(served, path, body, **ANTHROPIC, **lenient)
        assert status == 200, text
        assert headers["x-miner-ignored-params"] == field


BROKEN: list[Any] = [
    None,
    0,
    -1,
    1.5,
    "",
    "x",
    [],
    [None],
    [{}],
    {},
    {"type": "x"},
    True,
    10**30,
    "\ud83d\ude00" * 3,
    [[[]]],
]


@pytest.mark.parametrize(
    "request_", [chat(), responses(), anthropic(), ollama(), ("/v1/completions", {"model": "m", "prompt": "x"}),
                 ("/api/generate", {"model": "m", "prompt": "x", "stream": False})], ids=lambda value: value[0],
)  # fmt: skip
async def test_no_broken_field_is_a_server_error(request_: tuple[str, dict[str, Any]]):
    path, body = request_
    fields = (
        "messages input prompt system tools tool_choice response_format format text stop stop_sequences options think "
        "thinking reasoning reasoning_effort output_config seed max_tokens max_output_tokens n logprobs top_logprobs "
        "logit_bias keep_alive instructions metadata stream_options images raw"
    ).split()
    inside = "content role tool_calls tool_call_id name reasoning images type arguments".split()
    bad: list[Any] = []
    async with StubServer(reply="{}") as engine, serving(vllm(engine)) as served:
        for name in fields:
            for value in BROKEN:
                status, text, _ = await post_json(served, path, {**body, name: value}, **ANTHROPIC)
                if status >= 500:
                    bad.append((name, value, text))
        for value in BROKEN:
            for inner in inside:
                for name in ("messages", "input"):
                    turn = {"role": "assistant", "content": "x", inner: value}
                    status, text, _ = await post_json(served, path, {**body, name: [*USER, turn, *USER]}, **ANTHROPIC)
                    if status >= 500:
                        bad.append((name, inner, value, text))
    assert bad == []
