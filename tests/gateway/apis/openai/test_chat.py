"""Chat completions with the official `openai` package."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.gateway.apis.openai.client import KEY, USER, WEATHER, client
from tests.gateway.serving import Parrot, config, serving, vllm
from tests.gateway.test_field_names import chat, post_json
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import delta, finish, openai_reply, usage_chunk
from tests.servers.replay import ReplayServer


async def test_chat_over_a_recorded_engine():
    async with ReplayServer("vllm") as engine, serving(vllm(engine)) as served, client(served) as api:
        reply = await api.chat.completions.create(model="smollm2", messages=USER, max_tokens=12)
        streamed = [
            chunk
            async for chunk in await api.chat.completions.create(
                model="smollm2", messages=USER, max_tokens=12, stream=True, stream_options={"include_usage": True}
            )
        ]
    assert reply.object == "chat.completion"
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].message.content
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens > 0
    assert streamed[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in streamed if c.choices)
    assert [c.choices[0].finish_reason for c in streamed if c.choices][-1] in ("stop", "length")
    assert streamed[-1].choices == []
    assert streamed[-1].usage.completion_tokens > 0
    assert all(c.usage is None for c in streamed[:-1])


async def test_what_the_client_sends_reaches_the_engine():
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        reply = await api.chat.completions.with_raw_response.create(
            model="m",
            messages=[{"role": "developer", "content": "Be brief."}, *USER],
            max_completion_tokens=7,
            temperature=0.25,
            top_p=0.5,
            seed=11,
            stop=["\n"],
            presence_penalty=0.5,
            frequency_penalty=0.25,
            logit_bias={"5": -1},
            reasoning_effort="low",
            user="me",
            metadata={"a": "b"},
            store=False,
            service_tier="auto",
            verbosity="low",
            n=1,
            extra_body={"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.1},
        )
        sent = engine.bodies[-1]
    assert reply.parse().choices[0].message.content == "Hello there."
    assert reply.headers["x-miner-ignored-params"] == "verbosity"
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    assert sent["max_tokens"] == 7
    assert {name: sent[name] for name in ("temperature", "top_p", "seed", "stop")} == {
        "temperature": 0.25, "top_p": 0.5, "seed": 11, "stop": ["\n"],
    }  # fmt: skip
    assert (sent["presence_penalty"], sent["frequency_penalty"], sent["logit_bias"]) == (0.5, 0.25, {"5": -1})
    assert (sent["top_k"], sent["min_p"], sent["repetition_penalty"]) == (3, 0.1, 1.1)
    assert sent["reasoning_effort"] == "low"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"modalities": ["audio"]}, "modalities"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"n": 0}, "n"),
        ({"n": 99}, "n"),
        ({"reasoning_effort": "some"}, "reasoning_effort"),
        ({"guided_json": {"type": "object"}, "response_format": {"type": "json_object"}}, "guided_json"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"thread": {"id": "t"}}, "thread"),
        ({"fallbacks": ["m"]}, "fallbacks"),
        ({"compaction": {"type": "auto"}}, "compaction"),
        ({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
        ({"chat_template_kwargs": {"enable_thinking": "no"}}, "chat_template_kwargs.enable_thinking"),
        ({"functions": [{"name": "f"}], "tools": [WEATHER]}, "functions"),
        ({"function_call": 3}, "function_call"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages[0].role"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
    ],
)
async def test_what_is_not_supported_is_refused_by_name(fields, named):
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        with pytest.raises(openai.BadRequestError) as caught:
            await api.chat.completions.create(model="m", messages=USER, extra_body=fields)
        assert engine.generations == []
    assert caught.value.param == named
    assert caught.value.type == "invalid_request_error"
    assert named.split("[")[0] in caught.value.message


async def test_several_choices_are_several_calls():
    async with (
        StubServer(reply=lambda body: f"seed {body.get('seed')}") as engine,
        serving(vllm(engine)) as served,
        client(served) as api,
    ):
        reply = await api.chat.completions.create(model="m", messages=USER, n=3, seed=5)
        stream = await api.chat.completions.create(
            model="m", messages=USER, n=2, stream=True, stream_options={"include_usage": True}
        )
        pieces = [chunk async for chunk in stream]
    assert [choice.message.content for choice in reply.choices] == ["seed 5", "seed 6", "seed 7"]
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert reply.usage.completion_tokens == 24
    assert reply.usage.prompt_tokens == 21
    texts = {0: "", 1: ""}
    for chunk in pieces:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == {0: "seed None", 1: "seed None"}
    assert pieces[-1].usage.completion_tokens == 16


class Person(BaseModel):
    name: str
    age: int


async def test_structured_output_with_parse():
    text = '{"name": "Ada", "age": 36}'
    async with StubServer(reply=text) as engine, serving(vllm(engine)) as served, client(served) as api:
        parsed = await api.chat.completions.parse(model="m", messages=USER, response_format=Person)
        sent = engine.bodies[-1]
        async with api.chat.completions.stream(model="m", messages=USER, response_format=Person) as stream:
            final = await stream.get_final_completion()
    assert parsed.choices[0].message.parsed == Person(name="Ada", age=36)
    assert final.choices[0].message.parsed == Person(name="Ada", age=36)
    assert sent["response_format"]["json_schema"]["name"] == "Person"


async def test_output_that_breaks_the_schema_is_an_error_and_cut_output_says_length():
    async with StubServer(reply='{"name": 3}') as engine, serving(vllm(engine)) as served, client(served) as api:
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            await api.chat.completions.parse(model="m", messages=USER, response_format=Person)
        assert len(engine.bodies) == 1, "the client has sent it again"
        engine.reply = openai_reply('{"name": "A', "m", "length")
        with pytest.raises(openai.LengthFinishReasonError):
            await api.chat.completions.parse(model="m", messages=USER, response_format=Person)
    assert caught.value.status_code == 422
    assert caught.value.code == "invalid_output"


async def test_logprobs():
    entry = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": [{"token": "Hi", "logprob": -0.5}]}
    answer = openai_reply("Hi", "m")
    answer["choices"][0]["logprobs"] = {"content": [entry]}
    async with StubServer(reply=answer) as engine, serving(vllm(engine)) as served, client(served) as api:
        reply = await api.chat.completions.create(model="m", messages=USER, logprobs=True, top_logprobs=1)
        sent = engine.bodies[-1]
    told = reply.choices[0].logprobs.content[0]
    assert (told.token, told.logprob, told.bytes) == ("Hi", -0.5, [72, 105])
    assert told.top_logprobs[0].bytes == [72, 105]
    assert (sent["logprobs"], sent["top_logprobs"]) == (True, 1)


async def test_reasoning_has_a_field_of_its_own():
    events = [delta(reasoning="Hm."), delta(content="Yes."), finish(), usage_chunk()]
    async with StubServer(reply=events) as engine, serving(vllm(engine)) as served, client(served) as api:
        pieces = [c async for c in await api.chat.completions.create(model="m", messages=USER, stream=True)]
    deltas = [c.choices[0].delta for c in pieces if c.choices]
    assert "".join(getattr(d, "reasoning_content", None) or "" for d in deltas) == "Hm."
    assert "".join(d.content or "" for d in deltas) == "Yes."


async def test_the_sync_client():
    async with StubServer() as engine, serving(vllm(engine)) as served:

        def work():
            with OpenAI(base_url=served.v1, api_key=KEY, max_retries=0) as api:
                whole = api.chat.completions.create(model="m", messages=USER).choices[0].message.content
                pieces = list(api.chat.completions.create(model="m", messages=USER, stream=True))
                vectors = api.embeddings.create(model="m", input="one").data[0].embedding
                return whole, "".join(p.choices[0].delta.content or "" for p in pieces), vectors

        whole, streamed, vector = await asyncio.to_thread(work)
    assert whole == streamed == "Hello there."
    assert list(vector) == [3.0, 1.0, 0.0]


async def test_a_generate_only_backend():
    async with serving(Parrot(config(default_model="polly"))) as served, client(served) as api:
        reply = await api.chat.completions.create(model="polly", messages=USER)
        stream = await api.chat.completions.create(model="polly", messages=USER, stream=True)
        pieces = [piece async for piece in stream]
        text = await api.completions.with_raw_response.create(model="polly", prompt="hi")
        listed = [model.id async for model in api.models.list()]
        with pytest.raises(openai.BadRequestError) as tools:
            await api.chat.completions.create(model="polly", messages=USER, tools=[WEATHER])
        with pytest.raises(openai.BadRequestError) as vectors:
            await api.embeddings.create(model="polly", input="hi")
        lenient = await api.chat.completions.with_raw_response.create(
            model="polly", messages=USER, seed=3, extra_body={"unsupported": "ignore"}
        )
    assert reply.choices[0].message.content == "You said: Why is the sky blue?"
    assert reply.model == "polly"
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == "You said: Why is the sky blue?"
    assert text.parse().choices[0].text == "You said: hi"
    assert text.headers["x-miner-ignored-params"] == "raw"
    assert listed == ["polly"]
    assert tools.value.param == "tools"
    assert vectors.value.code == "unsupported_feature"
    assert lenient.headers["x-miner-ignored-params"] == "seed"


async def test_marks_for_a_cache_and_a_tools_name_are_accepted_and_listed():
    part = {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": [part], "cache_control": {"type": "ephemeral"}},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "tool_name": "f", "content": "1"},
    ]
    async with StubServer() as engine, serving(vllm(engine)) as served:
        status, text, headers = await post_json(served, *chat(messages=messages))
        assert status == 200, text
        assert headers["x-miner-ignored-params"] == "messages.cache_control, messages.content.cache_control"
        assert "cache_control" not in json.dumps(engine.bodies[-1])
        assert engine.bodies[-1]["messages"][2]["name"] == "f"


@pytest.mark.parametrize(("one", "other"), [({"max_tokens": 3}, {"n_predict": 4}),
                                            ({"repeat_penalty": 1.1}, {"repetition_penalty": 1.2})])  # fmt: skip
async def test_two_names_of_one_parameter_must_agree(one, other):
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        with pytest.raises(openai.BadRequestError, match="differ") as caught:
            await api.chat.completions.create(model="m", messages=USER, extra_body={**one, **other})
        assert caught.value.param == next(iter(one))
        assert engine.generations == []
        await api.chat.completions.create(model="m", messages=USER, extra_body=other)
