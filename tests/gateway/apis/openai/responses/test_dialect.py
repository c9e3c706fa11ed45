"""OpenAI's responses API with the official package."""

from __future__ import annotations

import json

import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.gateway.serving import Parrot, config, post, serving, vllm
from tests.servers import faults
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import delta, finish, openai_reply, usage_chunk

WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


def client(served):
    return AsyncOpenAI(base_url=served.v1, api_key="sk-any-key-will-do-here", max_retries=0)


async def test_a_response_streamed_or_not():
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        whole = await api.responses.create(
            model="m", input="Hi", instructions="Be brief.", max_output_tokens=9, temperature=0.5,
            reasoning={"effort": "low"}, store=False, metadata={"a": "b"},
        )  # fmt: skip
        sent = engine.bodies[-1]
        async with api.responses.stream(model="m", input="Hi") as stream:
            events = [event async for event in stream]
            final = await stream.get_final_response()
    assert whole.output_text == final.output_text == "Hello there."
    assert whole.status == final.status == "completed"
    assert whole.usage.output_tokens == final.usage.output_tokens == 8
    assert whole.metadata == {"a": "b"}
    assert [turn["role"] for turn in sent["messages"]] == ["system", "user"]
    assert (sent["max_tokens"], sent["temperature"], sent["reasoning_effort"]) == (9, 0.5, "low")
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    assert kinds[-4:] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Hello there."


async def test_reasoning_text_and_parallel_calls_and_sent_back():
    events = [
        delta(reasoning="Hm."),
        delta(content="I look."),
        delta(tool_calls=[{"index": 0, "id": "a", "type": "function", "function": {"name": "weather"}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '{"city":"Ro'}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": 'me"}'}}]),
        delta(tool_calls=[
            {"index": 1, "id": "b", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
        ]),
        finish("tool_calls"),
        usage_chunk(),
    ]  # fmt: skip
    async with StubServer(reply=events) as engine, serving(vllm(engine)) as served, client(served) as api:
        async with api.responses.stream(model="m", input="Weather?", tools=[WEATHER]) as stream:
            final = await stream.get_final_response()
        engine.reply = "Sunny."
        answers = [
            {"type": "function_call_output", "call_id": "a", "output": "sun"},
            {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "snow"}]},
        ]
        last = await api.responses.create(
            model="m",
            input=[{"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]}, *final.output, *answers],
            tools=[WEATHER],
            tool_choice="auto",
        )
        sent = engine.bodies[-1]["messages"]
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call", "function_call"]
    assert final.output[0].content[0].text == final.output[0].summary[0].text == "Hm."
    assert final.output_text == "I look."
    assert [(i.call_id, json.loads(i.arguments)["city"]) for i in final.output[2:]] == [("a", "Rome"), ("b", "Oslo")]
    assert last.output_text == "Sunny."
    assert [turn["role"] for turn in sent] == ["user", "assistant", "tool", "tool"]
    assert sent[1]["content"] == "I look."
    assert sent[1]["reasoning"] == "Hm."
    assert [call["id"] for call in sent[1]["tool_calls"]] == ["a", "b"]
    assert [turn["content"] for turn in sent[2:]] == ["sun", "snow"]


class Person(BaseModel):
    name: str
    age: int


async def test_structured_output_with_parse_and_cut_output():
    text = '{"name": "Ada", "age": 36}'
    async with StubServer(reply=text) as engine, serving(vllm(engine)) as served, client(served) as api:
        parsed = await api.responses.parse(model="m", input="Who?", text_format=Person)
        sent = engine.bodies[-1]
        engine.reply = openai_reply('{"na', "m", "length")
        cut = await api.responses.create(model="m", input="Who?")
    assert parsed.output_parsed == Person(name="Ada", age=36)
    assert sent["response_format"]["json_schema"]["name"] == "Person"
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")


async def test_logprobs():
    entry = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}
    answer = openai_reply("Hi", "m")
    answer["choices"][0]["logprobs"] = {"content": [entry]}
    async with StubServer(reply=answer) as engine, serving(vllm(engine)) as served, client(served) as api:
        reply = await api.responses.create(model="m", input="Hi", include=["message.output_text.logprobs"])
    assert reply.output[0].content[0].logprobs[0].logprob == -0.5


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True, "store": False}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"tool_choice": {"type": "web_search"}, "tools": [{"type": "web_search"}]}, "tool_choice"),
        ({"input": [{"type": "no_such_item"}]}, "input[0].type"),
        ({"input": [{"type": "compaction", "encrypted_content": "x"}]}, "input[0].encrypted_content"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "input[0].content[0].type",
        ),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"include": ["a\r\nx-injected: b"]}, "include[0]"),
    ],
)
async def test_what_is_not_supported_is_refused_by_name(fields, named):
    async with serving(Parrot(config())) as served, client(served) as api:
        with pytest.raises(openai.BadRequestError) as caught:
            await api.responses.create(**({"model": "m", "input": "Hi"} | {"extra_body": fields}))
    assert caught.value.param == named


ADDITIONS = {
    "truncation": "auto", "service_tier": "priority", "context_management": [{"type": "compaction"}],
    "client_metadata": {"a": "b"}, "max_tool_calls": 3, "prompt_cache_retention": "24h",
    "tools": [{"type": "web_search"}, {"type": "mcp", "server_label": "s"}], "moderation": {"model": "m"},
}  # fmt: skip


async def test_what_only_adds_is_left_out_and_listed_or_refused():
    async with serving(Parrot(config(default_model="m"))) as served:
        async with post(served, {"model": "m", "input": "Hi", **ADDITIONS}, "/v1/responses") as answer:
            body = await answer.json()
            ignored = answer.headers["x-miner-ignored-params"].split(", ")
        strict = {"X-Miner-Unsupported": "refuse"}
        async with post(
            served, {"model": "m", "input": "Hi", "truncation": "auto"}, "/v1/responses", headers=strict
        ) as answer:
            refused = await answer.json()
            assert answer.status == 400
    assert set(ignored) >= {
        "truncation", "service_tier", "context_management", "tools.type", "moderation", "max_tool_calls",
    }  # fmt: skip
    assert (body["truncation"], body["service_tier"], body["status"]) == ("disabled", "default", "completed")
    assert body["tools"] == ADDITIONS["tools"]
    assert refused["error"]["param"] == "truncation"


async def test_a_model_is_required_unless_there_is_a_default():
    async with serving(Parrot(config())) as served, post(served, {"input": "Hi"}, "/v1/responses") as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["param"] == "model"


async def test_a_late_failure_is_an_error_and_a_failed_response():
    broken = faults.reset(["Hel", "lo"])
    async with StubServer(reply=broken) as engine, serving(vllm(engine)) as served, client(served) as api:
        events = [event async for event in await api.responses.create(model="m", input="Hi", stream=True)]
    assert [event.type for event in events[-2:]] == ["error", "response.failed"]
    assert events[-1].response.status == "failed"
    assert events[-1].response.error.message == events[-2].message


async def test_a_generate_only_backend():
    async with serving(Parrot(config(default_model="polly"))) as served, client(served) as api:
        whole = await api.responses.create(input="Hi")
        async with api.responses.stream(model="polly", input="Hi") as stream:
            final = await stream.get_final_response()
    assert whole.output_text == final.output_text == "You said: Hi"


@pytest.mark.parametrize(
    "choice", ["required", "x", "", 5, 0, False, [], {}, {"a": 1}, {"type": "function", "name": "f"}]
)
async def test_a_tool_choice_without_tools_is_refused(choice):
    service = Parrot(config())
    async with (
        serving(service) as served,
        post(served, {"model": "m", "input": "Hi", "tool_choice": choice}, "/v1/responses") as answer,
    ):
        told = (await answer.json())["error"]
    assert answer.status == 400
    assert (told["param"], told["type"]) == ("tool_choice", "invalid_request_error")
    assert not hasattr(service, "asked")


@pytest.mark.parametrize("choice", ["auto", "none", None])
async def test_a_tool_choice_without_tools_that_asks_for_none(choice):
    body = {"model": "m", "input": "Hi", "tool_choice": choice}
    async with serving(Parrot(config())) as served, post(served, body, "/v1/responses") as answer:
        assert answer.status == 200
