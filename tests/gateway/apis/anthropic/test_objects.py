"""Every object and event has all fields of Anthropic's official types, with the right types, streamed or not."""

from __future__ import annotations

import json

import pytest
from anthropic import types
from anthropic.types import beta

from miner.core.llms.llm_llamacpp import LlamaCppService
from tests.gateway.apis.anthropic.client import CALLS, USER, WEATHER
from tests.gateway.apis.anthropic.strict import strict
from tests.gateway.serving import Parrot, config, post, serving, vllm
from tests.paths import DATA
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import delta, finish, usage, usage_chunk

THOUGHTS = [
    delta(role="assistant", content=""), delta(reasoning="Light "), delta(reasoning="scatters."),
    delta(content="Be"), delta(content="cause."), finish(), usage_chunk(),
]  # fmt: skip


def demo(template="tools.jinja"):
    return LlamaCppService(
        config(
            llamacpp_threads=1, llamacpp_parallel=1, llamacpp_ctx_size=512,
            llamacpp_chat_template=str(DATA / "templates" / template),
        )
    )  # fmt: skip


async def message(served, body):
    async with post(served, {"model": "demo", "max_tokens": 8, "messages": USER, **body}, "/v1/messages") as response:
        raw = await response.read()
        assert response.status == 200, raw
    read = strict(beta.BetaMessage, raw)
    types.Message.model_validate_json(raw)
    return read


async def events(served, body):
    body = {"model": "demo", "max_tokens": 8, "messages": USER, "stream": True, **body}
    async with post(served, body, "/v1/messages") as response:
        lines = (await response.text()).splitlines()
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [strict(beta.BetaRawMessageStreamEvent, item) for item in data if '"ping"' not in item]


@pytest.mark.engine
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"tools": [WEATHER], "tool_choice": {"type": "any"}, "max_tokens": 40},
        {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}},
        {"stop_sequences": ["a", "e"], "max_tokens": 40},
    ],
)
async def test_a_real_engines_messages_and_events(body):
    async with serving(demo()) as served:
        whole = await message(served, body)
        told = await events(served, body)
    assert whole.usage.input_tokens > 0
    assert whole.usage.service_tier == "standard"
    assert whole.context_management == told[-2].context_management
    assert (whole.context_management is not None) == ("context_management" in body)
    start, end = told[0].message.usage, told[-2].usage
    assert start.input_tokens + start.cache_read_input_tokens == whole.usage.input_tokens
    assert (start.input_tokens, start.cache_read_input_tokens) == (end.input_tokens, end.cache_read_input_tokens)
    assert start.cache_read_input_tokens > 0  # the whole message before it was the same
    assert (start.output_tokens, end.output_tokens > 0) == (0, True)


@pytest.mark.parametrize("reply", [CALLS, THOUGHTS, "Hello there.", [delta(content=""), finish(), usage_chunk()]])
async def test_the_parts_of_a_message(reply):
    async with StubServer(reply=reply) as engine, serving(vllm(engine)) as served:
        body = {"model": "m", "tools": [WEATHER], "thinking": {"type": "adaptive"}}
        whole = await message(served, body)
        told = await events(served, body)
    assert whole.usage.output_tokens == told[-2].usage.output_tokens > 0
    assert whole.stop_reason == told[-2].delta.stop_reason


@pytest.mark.engine
async def test_tokens_are_counted_as_a_message_counts_them():
    thought = {"type": "thinking", "thinking": "Nothing.", "signature": "x"}
    turn = {"role": "assistant", "content": [thought, {"type": "text", "text": "Ho"}]}
    bodies = [
        {"messages": USER, "system": "Be brief."},
        {"messages": [*USER, turn, *USER], "thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"messages": USER, "thinking": {"type": "disabled"}, "context_management": {"edits": []}},
        {"messages": USER, "tools": [WEATHER], "tool_choice": {"type": "any"}, "max_tokens": 40},
    ]
    async with serving(demo("think.jinja")) as served:
        for body in bodies:
            usage = (await message(served, body)).usage
            async with post(served, {"model": "demo", **body}, "/v1/messages/count_tokens") as response:
                counted = strict(beta.BetaMessageTokensCount, await response.read())
            assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


async def test_a_refusal_has_its_details():
    reply = [delta(content="No."), finish("content_filter"), usage_chunk()]
    async with StubServer(reply=reply) as engine, serving(vllm(engine)) as served:
        whole = await message(served, {"model": "m"})
        told = await events(served, {"model": "m"})
    assert whole.stop_reason == told[-2].delta.stop_reason == "refusal"
    assert whole.stop_details == told[-2].delta.stop_details is not None


async def test_vllm_tells_the_prompts_tokens_with_its_first_event():
    def reply(body):
        assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
        said = [delta(role="assistant", content=""), delta(content="Hi"), delta(content="."), finish()]
        counted = [{**event, "usage": usage(21, count)} for count, event in enumerate(said)]
        details = {"prompt_tokens_details": {"cached_tokens": 16}}
        return [*counted, {**usage_chunk(21, 3), "usage": usage(21, 3) | details}]

    async with StubServer(reply=reply, owner="vllm") as engine, serving(vllm(engine)) as served:
        told = await events(served, {"model": "m"})
    assert told[0].message.usage.input_tokens == 21
    assert (told[-2].usage.input_tokens, told[-2].usage.cache_read_input_tokens) == (5, 16)
    async with StubServer(owner="another server") as engine, serving(vllm(engine)) as served:
        told = await events(served, {"model": "m"})
        assert engine.bodies[-1]["stream_options"] == {"include_usage": True}
    assert told[0].message.usage.input_tokens > 0


async def test_a_backend_that_counts_nothing():
    """An estimate stands in `message_start`, and nothing after it contradicts it."""
    asked = {"messages": [{"role": "user", "content": "word " * 400}]}
    async with serving(Parrot(config(default_model="demo"))) as served:
        whole = await message(served, asked)
        told = await events(served, asked)
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (0, 0)
    assert 400 <= told[0].message.usage.input_tokens <= 600
    assert told[-2].usage.input_tokens is None


@pytest.mark.parametrize("display", ["summarized", "omitted"])
async def test_reasoning_survives_the_round_trip(display):
    body = {"model": "m", "thinking": {"type": "enabled", "budget_tokens": 1024, "display": display}}
    async with StubServer(reply=THOUGHTS) as engine, serving(vllm(engine)) as served:
        whole = await message(served, body)
        told = await events(served, body)
        block = json.loads(whole.content[0].model_dump_json())
        # Blocks of Anthropic's own, and of servers that sign nothing, are accepted too.
        others = [
            {"type": "thinking", "thinking": "Elsewhere.", "signature": "EqQBCkYIBxgCKkD0bm90IG91cnM="},
            {"type": "thinking", "thinking": "Unsigned.", "signature": ""},
            {"type": "thinking", "thinking": "", "signature": "EqQBCkYIBxgCKkD0bm90IG91cnM="},
            {"type": "redacted_thinking", "data": "EmwKAhgBEgy3va3pzix="},
        ]
        turn = {"role": "assistant", "content": [block, *others, {"type": "text", "text": "Because."}]}
        await message(served, {**body, "messages": [*USER, turn, *USER]})
        sent = engine.bodies[-1]["messages"][1]
    shown = "Light scatters." if display == "summarized" else ""
    assert whole.content[0].thinking == shown
    deltas = [event.delta for event in told if event.type == "content_block_delta" and event.index == 0]
    assert "".join(part.thinking for part in deltas if part.type == "thinking_delta") == shown
    assert [part.signature for part in deltas if part.type == "signature_delta"] == [whole.content[0].signature]
    assert len(whole.content[0].signature) > 20
    assert sent["reasoning"] == "Light scatters.\nElsewhere.\nUnsigned."
    assert sent["content"] == "Because."
