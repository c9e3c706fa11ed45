"""Stored responses with the official package: continued, referred to, read, listed and deleted; each key's own."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import CompactedResponse, ResponseItemList

from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.gateway.apis.openai.responses.input import stored_items
from tests.gateway.apis.openai.responses.validation import check_response
from tests.gateway.serving import config, post, serving, vllm
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import delta, finish, usage_chunk

TOOL = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}
CALL = [
    delta(reasoning="Hm."),
    delta(content="I look."),
    delta(tool_calls=[{"index": 0, "id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]),
    finish("tool_calls"),
    usage_chunk(),
]


def client(served, key="sk-any-key-will-do-here"):
    return AsyncOpenAI(base_url=served.v1, api_key=key, max_retries=0)


def texts(body):
    return [(message["role"], message.get("content")) for message in body["messages"]]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_conversation_goes_on_by_the_id_of_its_last_response(stream):
    async with StubServer(reply=CALL) as engine, serving(vllm(engine)) as served, client(served) as api:

        async def create(**body):
            if not stream:
                return await api.responses.create(model="m", **body)
            async with api.responses.stream(model="m", **body) as events:
                return await events.get_final_response()

        first = await create(input="Look.", instructions="Be brief.", tools=[TOOL])
        engine.reply = "Nothing."
        output = {"type": "function_call_output", "call_id": "c1", "output": "dark"}
        second = await create(input=[output], previous_response_id=first.id, tools=[TOOL])
        third = await create(input="Sure?", previous_response_id=second.id, instructions="Be long.")
        sent = engine.bodies[-1]
    assert (second.previous_response_id, third.previous_response_id) == (first.id, second.id)
    assert texts(sent) == [
        ("system", "Be long."), ("user", "Look."), ("assistant", "I look."), ("tool", "dark"),
        ("assistant", "Nothing."), ("user", "Sure?"),
    ]  # fmt: skip
    assert sent["messages"][2]["tool_calls"][0]["id"] == "c1"
    assert sent["messages"][2]["reasoning"] == "Hm."


async def test_items_are_referred_to_by_their_ids():
    async with StubServer(reply=CALL) as engine, serving(vllm(engine)) as served, client(served) as api:
        first = await api.responses.create(model="m", input="Look.", tools=[TOOL])
        engine.reply = "Nothing."
        references = [{"type": "item_reference", "id": item.id} for item in first.output]
        del references[1]["type"]  # it may be left out
        turns = [
            {"role": "user", "content": "Look."}, *references,
            {"type": "function_call_output", "call_id": "c1", "output": "dark"},
        ]  # fmt: skip
        second = await api.responses.create(model="m", input=turns, tools=[TOOL])
        sent = engine.bodies[-1]
        items = [item async for item in api.responses.input_items.list(second.id, order="asc")]
        with pytest.raises(openai.NotFoundError) as caught:
            await api.responses.create(model="m", input=[{"type": "item_reference", "id": "msg_" + "0" * 36}])
    assert texts(sent) == [("user", "Look."), ("assistant", "I look."), ("tool", "dark")]
    assert [item.type for item in items] == [
        "message", "reasoning", "message", "function_call", "function_call_output",
    ]  # fmt: skip
    assert caught.value.param == "input[0].id"


async def test_listed_items_are_of_the_official_types():
    turns = [
        {"role": "user", "content": "Look."}, {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "Here."}]},
        {"role": "assistant", "content": "I look."}, {"type": "reasoning", "summary": []},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "c2", "name": "write", "input": "x"},
        {"type": "function_call_output", "call_id": "c1", "output": "dark"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": "done"},
    ]  # fmt: skip
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        made = await api.responses.create(model="m", input=turns)
        raw = (await api.responses.with_raw_response.input_items.list(made.id, order="asc")).content
    image = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}
    (seen,) = stored_items([{"role": "user", "content": [image]}], "0" * 32)
    page = json.loads(raw)
    page["data"].append(seen)
    ResponseItemList.model_validate_json(json.dumps(page), strict=True)
    assert [item["type"] for item in json.loads(raw)["data"]] == [item.get("type", "message") for item in turns]


async def test_a_response_is_read_listed_and_deleted():
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        first = await api.responses.create(model="m", input="One")
        second = await api.responses.create(
            model="m", input=[{"role": "user", "content": "Two"}, {"role": "user", "content": "Three"}],
            previous_response_id=first.id,
        )  # fmt: skip
        raw = (await api.responses.with_raw_response.retrieve(second.id)).content
        assert check_response(raw)["output"][0]["content"][0]["text"] == second.output_text
        pages = await api.responses.input_items.list(second.id, limit=3)
        assert [item.content[0].text for item in pages.data] == ["Three", "Two", first.output_text]
        assert pages.has_more
        everything = [item.content[0].text async for item in api.responses.input_items.list(second.id, limit=1)]
        assert everything == ["Three", "Two", first.output_text, "One"]
        await api.responses.delete(first.id)
        for call in (api.responses.retrieve, api.responses.delete, api.responses.input_items.list):
            with pytest.raises(openai.NotFoundError):
                await call(first.id)
        with pytest.raises(openai.BadRequestError, match="deleted") as caught:
            await api.responses.create(model="m", input="x", previous_response_id=second.id)
        assert caught.value.param == "previous_response_id"
        assert caught.value.code == "previous_response_not_found"
        with pytest.raises(openai.BadRequestError, match="background"):
            await api.responses.cancel(second.id)


async def test_nothing_of_one_key_is_seen_by_another():
    keys = ["sk-one-" + "1" * 20, "sk-two-" + "2" * 20]
    async with (
        StubServer() as engine,
        serving(vllm(engine), api_keys=",".join(keys)) as served,
        client(served, keys[0]) as one,
        client(served, keys[1]) as other,
    ):
        mine = await one.responses.create(model="m", input="Secret.")
        for call in (
            lambda: other.responses.retrieve(mine.id),
            lambda: other.responses.delete(mine.id),
            lambda: other.responses.cancel(mine.id),
            lambda: other.responses.input_items.list(mine.id),
            lambda: other.responses.create(model="m", input=[{"type": "item_reference", "id": mine.output[0].id}]),
        ):
            with pytest.raises(openai.NotFoundError) as caught:
                await call()
            assert "Secret" not in str(caught.value)
        with pytest.raises(openai.BadRequestError):
            await other.responses.create(model="m", input="x", previous_response_id=mine.id)
        assert (await one.responses.retrieve(mine.id)).id == mine.id


async def test_it_survives_a_restart():
    async with StubServer() as engine:
        async with serving(vllm(engine)) as served, client(served) as api:
            first = await api.responses.create(model="m", input="One")
        async with serving(vllm(engine)) as served, client(served) as api:
            assert (await api.responses.retrieve(first.id)).output_text == first.output_text
            await api.responses.create(model="m", input="Two", previous_response_id=first.id)
            assert texts(engine.bodies[-1])[0] == ("user", "One")


async def test_what_is_not_to_be_stored_is_not():
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        reply = await api.responses.create(model="m", input="One", store=False)
        assert reply.to_dict()["store"] is False
        assert not served.gateway.database.path.exists()
        with pytest.raises(openai.NotFoundError):
            await api.responses.retrieve(reply.id)


async def test_a_server_that_stores_nothing_says_so():
    async with StubServer() as engine, serving(vllm(engine), serve_store=False) as served, client(served) as api:
        raw = await api.responses.with_raw_response.create(model="m", input="One", store=True)
        assert raw.parse().to_dict()["store"] is False
        assert raw.headers["x-miner-ignored-params"] == "store"
        plain = await api.responses.with_raw_response.create(model="m", input="One")
        assert "x-miner-ignored-params" not in plain.headers
        for body in ({"previous_response_id": raw.parse().id}, {"background": True}):
            with pytest.raises(openai.BadRequestError, match="Nothing is stored") as caught:
                await api.responses.create(model="m", input="x", **body)
            assert caught.value.param == next(iter(body))
        with pytest.raises(openai.NotFoundError, match="Nothing is stored"):
            await api.responses.retrieve(raw.parse().id)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_disk_that_fails_costs_the_storing_and_not_the_reply(stream, tmp_path):
    (tmp_path / "file").write_text("")
    async with (
        StubServer() as engine,
        serving(vllm(engine), serve_store_file=str(tmp_path / "file" / "store.db")) as served,
        client(served) as api,
    ):
        if stream:
            async with api.responses.stream(model="m", input="One") as events:
                reply = await events.get_final_response()
        else:
            reply = await api.responses.create(model="m", input="One")
        assert (reply.output_text, reply.status) == ("Hello there.", "completed")
        assert reply.to_dict()["store"] is False
        for call in (api.responses.retrieve(reply.id), api.responses.create(model="m", input="x", background=True)):
            with pytest.raises(openai.InternalServerError) as caught:
                await call
            assert caught.value.status_code == 503


async def test_what_is_continued_counts_like_what_is_sent():
    limits = {"serve_max_body": 400_000, "serve_body_budget": 400_000}
    async with StubServer() as engine, serving(vllm(engine), **limits) as served, client(served) as api:
        first = await api.responses.create(model="m", input="x" * 250_000)
        second = await api.responses.create(model="m", input="Go on", previous_response_id=first.id)
        third = await api.responses.create(model="m", input="x" * 100_000, previous_response_id=second.id)
        with pytest.raises(openai.InternalServerError, match="large"):
            await api.responses.create(model="m", input="x" * 300_000, previous_response_id=second.id)
        fourth = await api.responses.create(model="m", input="x" * 50_000, previous_response_id=third.id)
        with pytest.raises(openai.BadRequestError, match="too large") as caught:
            await api.responses.create(model="m", input="x", previous_response_id=fourth.id)
        assert caught.value.param == "previous_response_id"
        assert served.gateway.bodies.used == 0


async def test_many_at_once():
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        made = await asyncio.gather(*(api.responses.create(model="m", input=f"Number {at}") for at in range(40)))
        read = await asyncio.gather(*(api.responses.input_items.list(one.id) for one in made))
    assert [page.data[0].content[0].text for page in read] == [f"Number {at}" for at in range(40)]


async def test_a_conversation_is_compacted_and_goes_on():
    async with StubServer(reply="They said hello.") as engine, serving(vllm(engine)) as served, client(served) as api:
        turns = [
            {"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": "Bye."},
        ]  # fmt: skip
        raw = (await api.responses.with_raw_response.compact(model="m", input=turns)).content
        compacted = CompactedResponse.construct(**json.loads(raw))
        asked = engine.bodies[-1]["messages"]
        await api.responses.create(model="m", input=[*json.loads(raw)["output"], {"role": "user", "content": "?"}])
        sent = engine.bodies[-1]
        with pytest.raises(openai.BadRequestError) as caught:
            await api.post("/responses/compact", body={"input": turns}, cast_to=object)
    assert (compacted.object, compacted.usage.output_tokens) == ("response.compaction", 8)
    assert [item["type"] for item in json.loads(raw)["output"]] == ["message", "message", "compaction"]
    assert [message["content"] for message in asked[:3]] == ["Hello.", "Hi.", "Bye."]
    assert [content.partition("\n")[2] or content for _, content in texts(sent)] == [
        "Hello.", "Bye.", "They said hello.", "?",
    ]  # fmt: skip
    assert caught.value.param == "model"


async def test_input_tokens_are_counted_with_the_earlier_ones():
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        first = await api.responses.create(model="m", input="One two three")
        alone = await api.responses.input_tokens.count(model="m", input="Four")
        behind = await api.responses.input_tokens.count(model="m", input="Four", previous_response_id=first.id)
    assert alone.object == "response.input_tokens"
    assert behind.input_tokens > alone.input_tokens > 0


@pytest.mark.parametrize(
    ("query", "named"), [("limit=0", "limit"), ("limit=x", "limit"), ("order=up", "order"), ("after=none", "after")]
)
async def test_a_wrong_page_is_refused_by_name(query, named):
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        made = await api.responses.create(model="m", input="One")
        with pytest.raises(openai.BadRequestError) as caught:
            await api.get(f"/responses/{made.id}/input_items?{query}", cast_to=object)
    assert caught.value.param == named


async def test_a_wrong_input_is_refused():
    async with StubServer() as engine, serving(vllm(engine)) as served:
        for body, named in (({}, "input"), ({"input": []}, "input"), ({"input": [{"id": 5}]}, "input[0].id")):
            async with post(served, {"model": "m", **body}, "/v1/responses") as answer:
                assert (answer.status, (await answer.json())["error"]["param"]) == (400, named)


@pytest.mark.engine
async def test_a_real_engine_goes_on_where_it_was():
    service = LlamaCppService(config(default_model="demo"))
    custom = {"type": "custom", "name": "note", "description": "Write a note."}
    async with serving(service) as served, client(served) as api:
        first = await api.responses.create(
            model="demo", input="Note that it rains.", tools=[custom], tool_choice={"type": "custom", "name": "note"},
            temperature=0, max_output_tokens=200,
        )  # fmt: skip
        call = first.output[-1]
        assert (call.type, call.name) == ("custom_tool_call", "note")
        output = {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "Noted."}
        second = await api.responses.create(
            model="demo", input=[output], previous_response_id=first.id, tools=[custom], max_output_tokens=8
        )
        items = [item async for item in api.responses.input_items.list(second.id, order="asc")]
        third = await api.responses.create(
            model="demo", input="Go on.", previous_response_id=second.id, tools=[custom], max_output_tokens=4
        )
    assert [item.type for item in items] == ["message", *(item.type for item in first.output), output["type"]]
    assert third.usage.input_tokens > second.usage.input_tokens > first.usage.input_tokens
    assert third.usage.input_tokens_details.cached_tokens > second.usage.input_tokens // 2
