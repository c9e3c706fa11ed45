"""Anthropic's API of the gateway, with the official `anthropic` package."""

from __future__ import annotations

import asyncio
import json

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from pydantic import BaseModel

from miner.core.llms.llm_ollama import OllamaService
from miner.core.llms.llm_vllm import VLLMService
from tests.gateway.serving import Parrot, config, post, serving
from tests.servers import faults
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import delta, finish, openai_reply, usage_chunk
from tests.servers.replay import ReplayServer

KEY = "a-key-of-sixteen-characters"
USER = [{"role": "user", "content": "Why is the sky blue?"}]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "The weather of a city.", "input_schema": SCHEMA}


def vllm(server, **settings):
    return VLLMService(config(vllm_api_base=server.v1, max_retries=0, **settings))


def client(served, **options):
    return AsyncAnthropic(base_url=served.url, api_key=KEY, max_retries=0, **options)


def call_piece(index, arguments, **named):
    function = {"arguments": arguments, **({"name": named["name"]} if named else {})}
    begins = {"id": named["id"], "type": "function"} if named else {}
    return delta(tool_calls=[{"index": index, **begins, "function": function}])


CALLS = [
    delta(role="assistant", content="Let me look."),
    call_piece(0, "", id="call_a", name="weather"),
    call_piece(0, '{"city": '),
    call_piece(0, '"Rome"}'),
    call_piece(1, '{"city":"Oslo"}', id="call_b", name="weather"),
    finish("tool_calls"),
    usage_chunk(),
]
THOUGHTS = [
    delta(role="assistant", content=""), delta(reasoning="Light "), delta(reasoning="scatters."),
    delta(content="Be"), delta(content="cause."), finish(), usage_chunk(),
]  # fmt: skip


async def test_messages_over_a_recorded_engine():
    async with ReplayServer("vllm") as engine, serving(vllm(engine)) as served, client(served) as api:
        whole = await api.messages.create(model="smollm2", max_tokens=12, messages=USER)
        async with api.messages.stream(model="smollm2", max_tokens=12, messages=USER) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            final = await stream.get_final_message()
    assert (whole.type, whole.role, whole.model) == ("message", "assistant", "smollm2")
    assert whole.id.startswith("msg_")
    assert whole.content[0].text
    assert whole.stop_reason in ("end_turn", "max_tokens")
    assert whole.usage.input_tokens > 0
    assert whole.usage.output_tokens > 0
    assert text == final.content[0].text != ""
    assert final.usage.input_tokens > 0
    assert final.usage.output_tokens > 0


async def test_the_sync_client_over_the_smallest_backend():
    def use(url):
        with Anthropic(base_url=url, api_key=KEY, max_retries=0) as api:
            whole = api.messages.create(model="any", max_tokens=5, messages=USER)
            with api.messages.stream(model="any", max_tokens=5, messages=USER) as stream:
                return whole, stream.get_final_message()

    async with serving(Parrot(config(default_model="parrot"))) as served:
        whole, streamed = await asyncio.to_thread(use, served.url)
    assert whole.content[0].text == streamed.content[0].text == "You said: Why is the sky blue?"
    assert whole.stop_reason == streamed.stop_reason == "end_turn"


async def test_what_the_client_asks_reaches_the_engine():
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        told = await api.messages.with_raw_response.create(
            model="m",
            max_tokens=7,
            system=[
                {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
                {"type": "text", "text": "Be kind."},
            ],
            messages=[
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "user", "content": "c"},
                {"role": "assistant", "content": "d"},
                {"role": "user", "content": [{"type": "document", "source": {
                    "type": "text", "media_type": "text/plain", "data": "e"}, "title": "T"}]},
            ],
            stop_sequences=["\n"],
            thinking={"type": "adaptive"},
            output_config={"effort": "xhigh"},
            metadata={"user_id": "me"},
            service_tier="auto",
            extra_body={"temperature": 0.25, "top_p": 0.5, "top_k": 3},
        )  # fmt: skip
        sent = engine.bodies[-1]
    assert (await told.parse()).content[0].text == "Hello there."
    assert told.headers["x-miner-ignored-params"] == "cache_control"
    assert sent["messages"] == [
        {"role": "system", "content": "Be brief.\nBe kind."},
        {"role": "user", "content": "a\nb\nc"},
        {"role": "assistant", "content": "d"},
        {"role": "user", "content": "T\ne"},
    ]
    assert (sent["max_tokens"], sent["temperature"], sent["top_p"], sent["top_k"]) == (7, 0.25, 0.5, 3)
    assert sent["stop"] == ["\n"]
    assert sent["reasoning_effort"] == "xhigh"


async def test_events_come_in_anthropics_order():
    async with StubServer(reply=CALLS) as engine, serving(vllm(engine)) as served:
        body = {"model": "m", "max_tokens": 9, "messages": USER, "tools": [WEATHER], "stream": True}
        async with post(served, body, "/v1/messages") as answer:
            lines = (await answer.text()).splitlines()
            kind = answer.headers["Content-Type"]
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert kind.startswith("text/event-stream")
    assert [event["type"] for event in events] == names
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    assert names == [
        "message_start", *block, block[0], block[1], block[1], block[2], *block, "message_delta", "message_stop",
    ]  # fmt: skip
    assert [event["index"] for event in events if event["type"] == "content_block_start"] == [0, 1, 2]
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert events[-2]["usage"] == {"input_tokens": 21, "output_tokens": 8}


async def test_tools_streamed_and_whole_and_the_way_back():
    async with StubServer(reply=CALLS) as engine, serving(vllm(engine)) as served, client(served) as api:
        asked = {"model": "m", "max_tokens": 50, "messages": USER, "tools": [WEATHER]}
        async with api.messages.stream(**asked) as stream:
            streamed = await stream.get_final_message()
        whole = await api.messages.create(**asked, tool_choice={"type": "auto", "disable_parallel_tool_use": True})
        first = engine.bodies[-1]
        engine.reply = "Sunny."
        last = await api.messages.create(
            **{**asked, "messages": [
                *USER,
                {"role": "assistant", "content": streamed.content},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "call_a", "content": "sun"},
                    {"type": "tool_result", "tool_use_id": "call_b", "is_error": True,
                     "content": [{"type": "text", "text": "no such city"}]},
                    {"type": "text", "text": "And now?"},
                ]},
            ]}
        )  # fmt: skip
        sent = engine.bodies[-1]["messages"]
    assert [block.type for block in streamed.content] == ["text", "tool_use", "tool_use"]
    assert [(b.id, b.name, b.input) for b in streamed.content[1:]] == [
        ("call_a", "weather", {"city": "Rome"}), ("call_b", "weather", {"city": "Oslo"}),
    ]  # fmt: skip
    assert streamed.stop_reason == whole.stop_reason == "tool_use"
    assert [block.type for block in whole.content] == ["text", "tool_use"]
    assert first["parallel_tool_calls"] is False
    assert first["tools"][0]["function"]["parameters"] == SCHEMA
    assert last.content[0].text == "Sunny."
    assert [turn["role"] for turn in sent] == ["user", "assistant", "tool", "tool", "user"]
    assert [call["id"] for call in sent[1]["tool_calls"]] == ["call_a", "call_b"]
    assert sent[1]["content"] == "Let me look."
    assert [turn["content"] for turn in sent[2:]] == ["sun", "The tool failed:\nno such city", "And now?"]


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ({"type": "any"}, "required"),
        ({"type": "tool", "name": "weather"}, {"type": "function", "function": {"name": "weather"}}),
        ({"type": "none"}, None),
    ],
)
async def test_tool_choice(choice, sent):
    reply = CALLS if choice["type"] != "none" else "Hello."
    async with StubServer(reply=reply) as engine, serving(vllm(engine)) as served, client(served) as api:
        await api.messages.create(model="m", max_tokens=9, messages=USER, tools=[WEATHER], tool_choice=choice)
        assert engine.bodies[-1].get("tool_choice") == sent
        assert ("tools" in engine.bodies[-1]) == (sent is not None)


async def test_a_call_that_is_cut_short():
    cut = [*CALLS[:3], finish("length"), usage_chunk()]
    async with StubServer(reply=cut) as engine, serving(vllm(engine)) as served, client(served) as api:
        asked = {"model": "m", "max_tokens": 8, "messages": USER, "tools": [WEATHER]}
        whole = await api.messages.create(**asked)
        async with api.messages.stream(**asked) as stream:
            streamed = await stream.get_final_message()
    assert whole.stop_reason == streamed.stop_reason == "max_tokens"
    assert [block.type for block in whole.content] == ["text"]


async def test_thinking_streamed_and_whole_and_the_way_back():
    async with StubServer(reply=THOUGHTS) as engine, serving(vllm(engine)) as served, client(served) as api:
        thinking = {"type": "enabled", "budget_tokens": 1024}
        asked = {"model": "m", "max_tokens": 2000, "messages": USER, "thinking": thinking}
        async with api.messages.stream(**asked) as stream:
            streamed = await stream.get_final_message()
        first = engine.bodies[-1]
        engine.reply = openai_reply("Because.", "m", reasoning="Light scatters.")
        told = await api.messages.with_raw_response.create(**asked)
        whole = await told.parse()
        engine.reply = "Yes."
        turn = {"role": "assistant", "content": whole.content}
        await api.messages.create(model="m", max_tokens=9, messages=[*USER, turn, *USER], thinking={"type": "disabled"})
        last = engine.bodies[-1]
    for message in (streamed, whole):
        assert [block.type for block in message.content] == ["thinking", "text"]
        assert message.content[0].thinking == "Light scatters."
        assert message.content[1].text == "Because."
    assert told.headers["x-miner-ignored-params"] == "thinking.budget_tokens"
    assert first["reasoning_effort"] == "medium"
    assert last["reasoning_effort"] == "none"
    assert last["messages"][1]["reasoning"] == "Light scatters."


async def test_how_hard_to_try_is_no_matter_to_a_model_that_does_not_think():
    asked = {"model": "any", "max_tokens": 5, "messages": USER, "output_config": {"effort": "low"}}
    async with serving(Parrot(config())) as served, client(served) as api:
        told = await api.messages.with_raw_response.create(**asked, thinking={"type": "adaptive"})
        with pytest.raises(anthropic.BadRequestError, match="does not support thinking"):
            await api.messages.create(**asked, thinking={"type": "enabled", "budget_tokens": 1024})
    assert told.headers["x-miner-ignored-params"] == "output_config.effort"


async def test_a_begun_answer_is_continued():
    async with StubServer(reply=" blue.") as engine, serving(vllm(engine)) as served, client(served) as api:
        begun = {"role": "assistant", "content": "The sky is"}
        message = await api.messages.create(model="m", max_tokens=9, messages=[*USER, begun])
        sent = engine.bodies[-1]
    assert message.content[0].text == " blue."
    assert sent["continue_final_message"] is True
    assert sent["messages"][-1] == begun


async def test_images():
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    asked = [{"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image", "source": source}]}]
    capabilities = ("completion", "vision")
    async with StubServer(capabilities=capabilities, side={"/api/show": SHOWN}) as engine:
        service = OllamaService(config(ollama_base_url=engine.url, max_retries=0))
        async with serving(service) as served, client(served) as api:
            await api.messages.create(model="m", max_tokens=9, messages=asked)
            sent = engine.bodies[-1]["messages"][0]
            remote = {"type": "image", "source": {"type": "url", "url": "https://example.invalid/a.png"}}
            with pytest.raises(anthropic.BadRequestError, match="remote image"):
                await api.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": [remote]}])
    assert sent["content"] == "What?"
    assert sent["images"] == [PIXEL]


SHOWN = {
    "details": {}, "capabilities": ["completion", "vision"],
    "model_info": {"general.architecture": "llama", "llama.context_length": 2048},
}  # fmt: skip


class Person(BaseModel):
    name: str
    age: int


async def test_structured_output_with_parse():
    text = '{"name": "Ada", "age": 36}'
    async with StubServer(reply=text) as engine, serving(vllm(engine)) as served, client(served) as api:
        parsed = await api.messages.parse(model="m", max_tokens=50, messages=USER, output_format=Person)
        sent = engine.bodies[-1]
    assert parsed.parsed_output == Person(name="Ada", age=36)
    assert set(sent["response_format"]["json_schema"]["schema"]["required"]) == {"name", "age"}


async def test_count_tokens():
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        few = await api.messages.count_tokens(model="m", messages=USER)
        more = await api.messages.count_tokens(model="m", messages=USER, system="Be brief, please.", tools=[WEATHER])
        asked = engine.requests[-1].json
    assert 0 < few.input_tokens < more.input_tokens
    assert asked["messages"][0]["role"] == "system"
    assert asked["tools"][0]["function"]["name"] == "weather"
    async with serving(Parrot(config(default_model="parrot"))) as served, client(served) as api:
        with pytest.raises(anthropic.HTTPNotImplementedError, match="cannot count tokens") as caught:
            await api.messages.count_tokens(model="parrot", messages=USER)
    assert caught.value.status_code == 501
    assert caught.value.type == "api_error"
    assert caught.value.error_code == "unsupported_feature"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "b", "input": {}}]}]},
         "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {
            "type": "base64", "media_type": "image/tiff", "data": ""}}]}]}, "media_type"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {
            "type": "base64", "media_type": "image/png", "data": "\u00e9"}}]}]}, "source.data"),
        ({"messages": [{"role": "user", "content": [{"type": "document", "source": {
            "type": "base64", "media_type": "application/pdf", "data": ""}}]}]}, "messages[0].content[0]"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]"),
        ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "other"}}, "other"),
        ({"thinking": {"type": "sometimes"}}, "thinking"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
        ({"mcp_servers": [{"url": "https://example.invalid"}]}, "mcp_servers"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"guided_json": {}}, "guided_json"),
    ],
)  # fmt: skip
async def test_what_cannot_be_honoured_is_refused_by_name(fields, named):
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        with pytest.raises(anthropic.BadRequestError) as caught:
            await api.messages.create(model="m", max_tokens=9, messages=USER, extra_body=fields)
        assert engine.generations == []
    assert caught.value.type == "invalid_request_error"
    assert named in caught.value.api_message


LONG = {"message": "maximum context length is 2048 tokens. However, your prompt has 3000", "code": 400}


@pytest.mark.parametrize(
    ("reply", "model", "error", "kind", "code"),
    [
        ("Hi.", "no", anthropic.NotFoundError, "not_found_error", "model_not_found"),
        ((400, {"error": LONG}), "m", anthropic.BadRequestError, "invalid_request_error", "context_length_exceeded"),
        ((429, {"error": "busy"}), "m", anthropic.RateLimitError, "rate_limit_error", "overloaded"),
        (faults.status(503), "m", anthropic.ServiceUnavailableError, "api_error", "backend_unavailable"),
        (faults.garbage_http(), "m", anthropic.InternalServerError, "api_error", None),
    ],
    ids=["model", "context", "overloaded", "unavailable", "garbage"],
)
async def test_errors_are_mapped_to_the_packages_own(reply, model, error, kind, code):
    async with StubServer(reply=reply) as engine, serving(vllm(engine)) as served, client(served) as api:
        for stream in (False, True):
            with pytest.raises(error) as caught:
                await api.messages.create(model=model, max_tokens=9, messages=USER, stream=stream)
            assert caught.value.type == kind
            assert caught.value.body["type"] == "error"
            assert code in (None, caught.value.error_code)
            assert engine.url not in caught.value.api_message


async def test_a_prompt_that_is_too_long_says_so():
    reply = (400, {"error": LONG})
    async with StubServer(reply=reply) as engine, serving(vllm(engine)) as served, client(served) as api:
        with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
            await api.messages.create(model="m", max_tokens=9, messages=USER)


async def test_a_stream_that_breaks_ends_with_an_error_event():
    reply = faults.error_in_stream(texts=["Hel"])
    async with StubServer(reply=reply) as engine, serving(vllm(engine)) as served, client(served) as api:
        events = []
        stream = await api.messages.create(model="m", max_tokens=9, messages=USER, stream=True)
        with pytest.raises(anthropic.APIStatusError) as caught:
            [events.append(event) async for event in stream]
    assert [event.type for event in events] == ["message_start", "content_block_start", "content_block_delta"]
    assert events[-1].delta.text == "Hel"
    assert caught.value.type == "api_error"


async def test_keys_and_paths():
    async with serving(Parrot(config()), api_keys=KEY) as served:
        async with AsyncAnthropic(base_url=served.url, api_key="another-key-of-no-use", max_retries=0) as api:
            with pytest.raises(anthropic.AuthenticationError) as caught:
                await api.messages.create(model="any", max_tokens=5, messages=USER)
        async with client(served) as api:
            message = await api.messages.create(model="any", max_tokens=5, messages=USER)
            with pytest.raises(anthropic.NotFoundError) as missing:
                await api.messages.batches.list()
            with pytest.raises(anthropic.APIStatusError) as wrong:
                await api.get("/v1/messages", cast_to=object)
    assert caught.value.type == "authentication_error"
    assert message.content[0].text.startswith("You said")
    assert missing.value.type == "not_found_error"
    assert wrong.value.status_code == 405
    assert wrong.value.body["type"] == "error"


async def test_the_id_of_a_request_is_where_anthropics_clients_look_for_it():
    async with StubServer(reply=faults.reset(["Hel"])) as engine, serving(vllm(engine), api_keys=KEY) as served:
        async with client(served) as api:
            with pytest.raises(anthropic.NotFoundError) as caught:
                await api.messages.create(model="none", max_tokens=5, messages=USER)
        unknown = caught.value
        async with post(served, {}, "/v1/messages/nowhere", headers={"x-request-id": "mine"}) as answer:
            refused = await answer.json()
            assert answer.headers["request-id"] == answer.headers["x-request-id"] == "mine"
        body = {"model": "m", "max_tokens": 5, "messages": USER, "stream": True}
        async with post(served, body, "/v1/messages", headers={"x-api-key": KEY}) as answer:
            events = await answer.text()
            named = answer.headers["request-id"]
        async with post(served, {}, "/v1/chat/completions") as answer:
            assert "request-id" not in answer.headers
        engine.reply = "Hello."
        async with client(served) as api:
            message = await api.messages.create(model="m", max_tokens=5, messages=USER)
    assert unknown.request_id == unknown.body["request_id"] == unknown.response.headers["x-request-id"]
    assert refused["request_id"] == "mine"
    assert json.loads(events.strip().rpartition("data: ")[2])["request_id"] == named
    assert message._request_id
