"""Every reply and every event in the official package's types, with every field."""

from __future__ import annotations

import json

import pytest

from miner.core.llms.llm_llamacpp import LlamaCppService
from tests.gateway.apis.openai.responses.validation import check_events, check_response
from tests.gateway.serving import config, post, serving, vllm
from tests.servers import faults
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import delta, finish, openai_reply, usage_chunk

PATH = "/v1/responses"
FUNCTION = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
CUSTOM = {"type": "custom", "name": "patch", "description": "Apply a patch."}
EVERYTHING = [
    delta(reasoning="Let me "),
    delta(reasoning="see."),
    delta(content="I "),
    delta(content="look."),
    delta(tool_calls=[{"index": 0, "id": "a", "type": "function", "function": {"name": "weather", "arguments": ""}}]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": '{"city":'}}]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": '"Rome"}'}}]),
    delta(tool_calls=[{"index": 1, "id": "b", "type": "function", "function": {"name": "patch", "arguments": ""}}]),
    delta(tool_calls=[{"index": 1, "function": {"arguments": '{"inp'}}]),
    delta(tool_calls=[{"index": 1, "function": {"arguments": 'ut": "a\\n\\u00e'}}]),
    delta(tool_calls=[{"index": 1, "function": {"arguments": '9\\"b"}'}}]),
]


async def reply(served, body, **options):
    async with post(served, {"model": "m", "input": "Hi", **body}, PATH, **options) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.read()


async def test_a_reply_with_everything_streamed_and_not():
    body = {"tools": [FUNCTION, CUSTOM], "include": ["reasoning.encrypted_content"]}
    said = [*EVERYTHING, finish("tool_calls"), usage_chunk()]
    async with StubServer(reply=said) as engine, serving(vllm(engine)) as served:
        events = check_events(await reply(served, body | {"stream": True}))
        whole = check_response(await reply(served, body))
    streamed = events[-1]["response"]
    assert [item["type"] for item in streamed["output"]] == [
        "reasoning", "message", "function_call", "custom_tool_call"
    ]  # fmt: skip
    assert streamed["output"][3]["input"] == 'a\né"b'
    custom = [event for event in events if event["type"].startswith("response.custom")]
    assert [event.get("delta", event.get("input")) for event in custom] == ["a\n", 'é"b', 'a\né"b']
    assert whole.keys() == streamed.keys()

    def timeless(item):
        return {name: value for name, value in item.items() if name != "id"}

    assert [timeless(item) for item in whole["output"]] == [timeless(item) for item in streamed["output"]]
    assert whole["usage"] == streamed["usage"] != None  # noqa: E711


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("events", "statuses"),
    [
        ([delta(content="Hel")], ["incomplete"]),
        (EVERYTHING[:6], ["completed", "completed", "incomplete"]),
        (EVERYTHING[:10], ["completed", "completed", "completed", "incomplete"]),
        ([], ["incomplete"]),
    ],
)
async def test_what_was_cut_says_so(events, statuses, stream):
    said = [*events, finish("length"), usage_chunk()]
    async with StubServer(reply=said) as engine, serving(vllm(engine)) as served:
        raw = await reply(served, {"tools": [FUNCTION, CUSTOM], "stream": stream})
    final = check_events(raw)[-1]["response"] if stream else check_response(raw)
    assert final["status"] == "incomplete"
    assert final["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["status"] for item in final["output"]] == statuses


async def test_the_parameters_of_the_request_are_in_the_reply():
    sent = {
        "instructions": "Be brief.", "max_output_tokens": 9, "temperature": 0.5, "top_p": 0.5, "metadata": {"a": "b"},
        "parallel_tool_calls": False, "prompt_cache_key": "k", "safety_identifier": "s", "user": "u", "store": False,
        "tool_choice": "auto", "tools": [FUNCTION], "max_tool_calls": 2, "text": {"format": {"type": "text"}},
        "presence_penalty": 0.5, "frequency_penalty": 0.25,
        "include": ["message.output_text.logprobs"], "top_logprobs": 2,
    }  # fmt: skip
    async with StubServer(reply=openai_reply("Hi.", "m")) as engine, serving(vllm(engine)) as served:
        body = check_response(await reply(served, sent))
        plain = check_response(await reply(served, {}))
    changed = {"include": None, "tools": [FUNCTION | {"description": None, "strict": None}]}
    expected = {name: value for name, value in (sent | changed).items() if value is not None}
    assert {name: body[name] for name in expected if name != "text"} == {
        name: value for name, value in expected.items() if name != "text"
    }
    assert (plain["temperature"], plain["top_p"], plain["store"]) == (0.7, 0.95, True)  # those in force


async def test_a_failure_in_the_middle():
    async with StubServer(reply=faults.reset(["Hel", "lo"])) as engine, serving(vllm(engine)) as served:
        raw = await reply(served, {"stream": True})
        events = check_events(raw)
        name = events[-1]["response"]["id"]
        async with post(served, b"", f"{PATH}/{name}/cancel") as answer:
            assert answer.status == 400
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]


@pytest.mark.engine
async def test_a_real_engine():
    service = LlamaCppService(config(default_model="demo"))
    async with serving(service) as served:
        body = {"model": "demo", "max_output_tokens": 4, "temperature": 0}
        whole = check_response(await reply(served, body))
        events = check_events(await reply(served, body | {"stream": True}))
        done = {"input": "Say hello.", "max_output_tokens": 400, "temperature": 0, "stop": [".", "!", ","]}
        complete = check_response(await reply(served, {"model": "demo", **done}))
    final = events[-1]["response"]
    assert final["output"][0]["content"] == whole["output"][0]["content"]
    assert final["usage"]["output_tokens"] == whole["usage"]["output_tokens"] == 4
    assert (whole["status"], complete["status"]) == ("incomplete", "completed")
    assert json.dumps(whole["model"]) != '""'
