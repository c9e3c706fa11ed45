"""Tools on the real engine, with a template that knows them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest

from miner.core.llms.contract.join import join
from miner.errors import InvalidRequestError, OutputValidationError
from tests.core.llms.test_llm_llamacpp import llamacpp
from tests.paths import TEMPLATES

pytestmark = pytest.mark.engine

TEMPLATE = str(TEMPLATES / "tools.jinja")
BOOK = {
    "type": "function",
    "function": {
        "name": "book",
        "description": None,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "n": {"type": "integer"}},
            "required": ["city", "n"],
        },
    },
}
ASKED: list[dict[str, Any]] = [{"role": "user", "content": "Book a hotel in Paris for 2."}]


async def test_log_probabilities_come_with_tools_too():
    async with llamacpp(llamacpp_chat_template=TEMPLATE) as service:
        reply = await service.chat_completion(ASKED, tools=[BOOK], logprobs=2, max_tokens=6, temperature=0)
        assert reply.logprobs
        assert all(len(entry.alternatives) == 2 for entry in reply.logprobs)
        forced = await service.stream(messages=ASKED, tools=[BOOK], tool_choice="book", logprobs=0).collect()
        assert forced.tool_calls
        assert forced.logprobs


async def test_a_call_that_max_tokens_cut_comes_as_far_as_it_was_written():
    seen = []
    async with llamacpp(llamacpp_chat_template=TEMPLATE) as service:
        for count in range(1, 30, 4):
            with_calls: dict[str, Any] = {"tools": [BOOK], "tool_choice": "required", "temperature": 0}
            chunks = []
            with suppress(OutputValidationError):
                async for chunk in service.stream(messages=ASKED, max_tokens=count, **with_calls):
                    chunks.append(chunk)  # noqa: PERF401
            reply = join([chunks])
            assert reply.content == "", "the form in which the engine is asked for a call is not the client's"
            assert reply.finish_reason in ("length", "tool_calls")
            if reply.tool_calls:
                seen.append(reply.tool_calls[0]["function"])
    assert {function["name"] for function in seen} == {"book"}
    texts = [function["arguments"] for function in seen]
    assert texts == sorted(texts, key=len)
    assert any(text and not text.endswith("}") for text in texts)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_history_as_clients_write_it_reaches_the_template(stream: bool):
    history = [
        *ASKED,
        {"role": "assistant", "content": None, "refusal": None, "annotations": [],
         "tool_calls": [{"id": "c1", "function": {"name": "book", "arguments": ""}}]},
        {"role": "tool", "tool_call_id": "c1", "content": None},
    ]  # fmt: skip
    async with llamacpp(llamacpp_chat_template=TEMPLATE) as service:
        given: dict[str, Any] = {"messages": history, "tools": [BOOK], "max_tokens": 4}
        reply = await (service.stream(**given).collect() if stream else service.chat_completion(**given))
        assert reply.usage.completion_tokens == 4


async def test_a_prompt_of_token_ids_is_the_prompt_that_they_spell():
    async with llamacpp() as service:
        text = "The numbers in order: one two three four one two three"
        running = await service.generate(text, raw=True, temperature=0, max_tokens=6)
        (engine,) = service._engines._servers.values()
        raw = await engine.http.request("POST", "/tokenize", msgspec.json.encode({"content": text}), root=True)
        tokens = msgspec.json.decode(raw.body)["tokens"]
        assert await service.generate(tokens, raw=True, temperature=0, max_tokens=6) == running
        with pytest.raises(InvalidRequestError, match="requires raw=True"):
            await service.generate(tokens)


STRANGE: list[Any] = [
    {"type": "object", "properties": {"a": {"type": "any"}}},
    {"type": "str"},
    {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}},
    {"type": "object", "properties": {"a": {"type": "string", "format": None}}, "required": None},
    {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}},
]


@pytest.mark.parametrize("template", [TEMPLATE, None], ids=["native", "emulated"])
async def test_what_is_no_schema_in_a_tool_gets_an_answer_whoever_writes_the_call(template: str | None):
    async with llamacpp(**({"llamacpp_chat_template": template} if template else {})) as service:
        for parameters in STRANGE:
            tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
            for choice in ("auto", "required"):
                asked: Any = service.stream(messages=ASKED, tools=[tool], tool_choice=choice, max_tokens=4)
                assert (await asked.collect()).usage is not None, (parameters, choice)


async def test_bounds_of_numbers_hold_in_a_strict_tool_whose_call_must_come():
    unit = {"type": "object", "properties": {"p": {"type": "number", "minimum": 0, "maximum": 1}}, "required": ["p"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": unit, "strict": True}}
    async with llamacpp(llamacpp_chat_template=TEMPLATE) as service:
        reply = await service.chat_completion(ASKED, tools=[tool], tool_choice="required", max_tokens=60)
    assert reply.tool_calls
    assert 0 <= msgspec.json.decode(reply.tool_calls[0]["function"]["arguments"])["p"] <= 1
