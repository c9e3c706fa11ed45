"""Messages with the official `anthropic` package."""

from __future__ import annotations

import asyncio

import anthropic
import pytest
from anthropic import Anthropic
from pydantic import BaseModel

from tests.gateway.apis.anthropic.client import KEY, USER, WEATHER, client
from tests.gateway.serving import Parrot, config, serving, vllm
from tests.servers.openai_stub import StubServer
from tests.servers.replay import ReplayServer


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


async def test_the_sync_client_over_a_generate_only_backend():
    def use(url):
        with Anthropic(base_url=url, api_key=KEY, max_retries=0) as api:
            whole = api.messages.create(model="any", max_tokens=5, messages=USER)
            with api.messages.stream(model="any", max_tokens=5, messages=USER) as stream:
                return whole, stream.get_final_message()

    async with serving(Parrot(config(default_model="parrot"))) as served:
        whole, streamed = await asyncio.to_thread(use, served.url)
    assert whole.content[0].text == streamed.content[0].text == "You said: Why is the sky blue?"
    assert whole.stop_reason == streamed.stop_reason == "end_turn"


async def test_what_the_client_sends_reaches_the_engine():
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


async def test_effort_is_ignored_for_a_model_without_reasoning():
    asked = {"model": "any", "max_tokens": 5, "messages": USER, "output_config": {"effort": "low"}}
    async with serving(Parrot(config())) as served, client(served) as api:
        told = await api.messages.with_raw_response.create(**asked, thinking={"type": "adaptive"})
        refuse = {"X-Miner-Unsupported": "refuse"}
        with pytest.raises(anthropic.BadRequestError, match=r"does not support output_config\.effort"):
            await api.messages.create(**asked, thinking={"type": "adaptive"}, extra_headers=refuse)
    assert told.headers["x-miner-ignored-params"] == "output_config.effort"


async def test_a_prefilled_response_is_continued():
    async with StubServer(reply=" blue.") as engine, serving(vllm(engine)) as served, client(served) as api:
        begun = {"role": "assistant", "content": "The sky is"}
        message = await api.messages.create(model="m", max_tokens=9, messages=[*USER, begun])
        sent = engine.bodies[-1]
    assert message.content[0].text == " blue."
    assert sent["continue_final_message"] is True
    assert sent["messages"][-1] == begun


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
        ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "other"}}, "other"),
        ({"thinking": {"type": "sometimes"}}, "thinking"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
        ({"mcp_servers": [{"url": "https://example.invalid"}]}, "mcp_servers"),
        ({"guided_json": {"type": "object"}}, "guided_json"),
    ],
)  # fmt: skip
async def test_what_is_not_supported_is_refused_by_name(fields, named):
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        with pytest.raises(anthropic.BadRequestError) as caught:
            await api.messages.create(model="m", max_tokens=9, messages=USER, extra_body=fields)
        assert engine.generations == []
    assert caught.value.type == "invalid_request_error"
    assert named in caught.value.api_message
