"""What an engine does not enforce of a JSON Schema is refused before anything is sent, or listed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pydantic
import pytest

from miner.config.config import MinerConfig
from miner.core.llms.contract.join import join
from miner.core.llms.contract.request import build_request
from miner.core.llms.contract.structured import output_format
from miner.core.llms.llamacpp.dialect import adjust
from miner.core.llms.llamacpp.forced_tools import as_calls
from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.core.llms.LLMService import LLMService
from miner.core.wire import LLMChunk
from miner.errors import InvalidRequestError, OutputValidationError, UnsupportedFeatureError
from tests.core.llms.llamacpp.test_forced_tools import TEMPLATE
from tests.core.llms.test_llm_llamacpp import llamacpp
from tests.core.services import MESSAGES, WEATHER, read, speaking_to
from tests.servers.openai_stub import StubServer

UNIQUE = {"type": "object", "properties": {"l": {"type": "array", "uniqueItems": True}}, "required": ["l"]}
BOUNDED = {"type": "object", "properties": {"c": {"type": "number", "minimum": 0, "maximum": 1}}, "required": ["c"]}
LOOKING = {"type": "string", "pattern": "^(?!x).*$"}
NAMED = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": UNIQUE}}

REFUSED = [
    ("ollama", UNIQUE, "response_format.properties.l.uniqueItems"),
    ("ollama", NAMED, "response_format.json_schema.schema.properties.l.uniqueItems"),
    ("ollama", BOUNDED, "response_format.properties.c.minimum"),
    ("ollama", LOOKING, "response_format.pattern"),
    ("vllm", LOOKING, "response_format.pattern"),
    ("vllm", {"anyOf": [{"type": "string", "not": {"const": "a"}}]}, "response_format.anyOf[0].not"),
    ("vllm", {"type": "object", "if": {}, "then": {}}, "response_format.if"),
]


@pytest.mark.parametrize(("engine", "form", "param"), REFUSED)
async def test_a_keyword_that_an_engine_lacks_is_refused_by_its_place(engine: str, form: dict[str, Any], param: str):
    async with StubServer(reply="{}") as server, speaking_to(engine, server) as service:
        for ask in (
            service.chat_completion(MESSAGES, response_format=form),
            read(service.stream("x", response_format=form)),
        ):
            with pytest.raises(UnsupportedFeatureError) as caught:
                await ask
            assert caught.value.param == param
            assert f"{engine} cannot enforce {param.rsplit('.', 1)[-1]}" in caught.value.message
            assert param in caught.value.message
        assert server.bodies == []


async def test_a_subschema_that_is_false_is_refused_on_vllm_whose_grammar_fails_on_it():
    async with StubServer(reply="{}") as server, speaking_to("vllm", server) as service:
        with pytest.raises(UnsupportedFeatureError, match="cannot enforce false of a JSON Schema") as caught:
            await service.chat_completion(MESSAGES, response_format={"type": "object", "properties": {"a": False}})
        assert caught.value.param == "response_format.properties.a"
        assert server.bodies == []


async def test_where_it_is_allowed_the_reply_is_checked_afterwards_and_the_keyword_listed():
    async with StubServer(reply='{"l": [1, 1]}') as server, speaking_to("ollama", server) as service:
        with pytest.raises(OutputValidationError, match="violates the schema at l"):
            await service.chat_completion(MESSAGES, response_format=UNIQUE, unsupported="ignore")
        server.reply = '{"l": [1, 2]}'
        response = await service.chat_completion(MESSAGES, response_format=UNIQUE, unsupported="ignore")
        assert response.ignored == ["response_format.properties.l.uniqueItems"]
        assert response.parsed == {"l": [1, 2]}
        loose = {"type": "json_schema", "json_schema": {"name": "x", "strict": False, "schema": UNIQUE}}
        response = await service.chat_completion(MESSAGES, response_format=loose)
        assert response.ignored == ["response_format.json_schema.schema.properties.l.uniqueItems"]


@pytest.mark.parametrize("engine", ["vllm", "ollama"])
async def test_tools_and_a_format_that_keep_each_other_out(engine: str):
    """Their grammar of the format lets no call through: only the JSON would come."""
    both: dict[str, Any] = {"tools": [WEATHER], "response_format": {"type": "json_object"}}
    async with StubServer(reply="{}") as server, speaking_to(engine, server) as service:
        with pytest.raises(UnsupportedFeatureError, match="response_format together with tools") as caught:
            await service.chat_completion(MESSAGES, **both)
        assert caught.value.param == "response_format"
        assert server.bodies == []
        response = await service.chat_completion(MESSAGES, unsupported="ignore", **both)
        assert response.ignored == ["response_format"]
        body = server.bodies[-1]
        assert "tools" in body
        assert not {"format", "response_format"} & body.keys()
        assert (await service.chat_completion(MESSAGES, tool_choice="none", **both)).parsed == {}


async def test_a_schema_in_the_words_of_ollama():
    schema = {"type": "object", "properties": {"a": True, "b": {"$ref": "#"}}, "required": ["a"], "$defs": {}}
    async with StubServer(reply='{"a": 1}') as server, speaking_to("ollama", server) as service:
        await service.chat_completion(MESSAGES, response_format=schema)
        sent = server.bodies[-1]["format"]
    assert sent["properties"]["b"] == {"$ref": "#/$defs/root"}
    assert sent["properties"]["a"]["type"] == ["object", "array", "string", "number", "boolean", "null"]
    assert sent["$defs"]["root"]["required"] == ["a"]


async def test_a_schema_under_which_nothing_is_valid_is_the_callers_fault():
    async with StubServer() as server, speaking_to("ollama", server) as service:
        with pytest.raises(InvalidRequestError, match="nothing is valid under it") as caught:
            await service.chat_completion(MESSAGES, response_format={"type": "integer", "minimum": 2, "maximum": 1})
        assert caught.value.param == "response_format"
        with pytest.raises(InvalidRequestError, match="nothing is valid"):
            await service.chat_completion(MESSAGES, response_format={"$ref": "#"})


def test_a_schema_is_compiled_once_and_a_huge_one_is_refused(monkeypatch: pytest.MonkeyPatch):
    import jsonschema_rs

    compiled = []
    real = jsonschema_rs.validator_for
    monkeypatch.setattr(jsonschema_rs, "validator_for", lambda *args, **more: compiled.append(1) or real(*args, **more))
    schema = {"type": "object", "properties": {"only here": {"type": "string"}}}
    for _ in range(3):
        output_format(schema)
    assert len(compiled) == 1
    huge = {"type": "object", "properties": {f"property {number}": {} for number in range(10_000)}}
    with pytest.raises(InvalidRequestError, match="bytes; 120000 at most"):
        output_format(huge)


async def test_a_big_schema_holds_up_nobody():
    big = {
        "type": "object",
        "properties": {f"p{number}": {"type": "string", "pattern": r"^\d+$"} for number in range(2000)},
    }
    late = []

    async def beat() -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(0.005)
            late.append(loop.time() - before)

    async with StubServer(reply="{}") as server, speaking_to("ollama", server) as service:
        beating = asyncio.create_task(beat())
        try:
            await service.chat_completion(MESSAGES, response_format=big)
        finally:
            beating.cancel()
    assert len(late) > 3, "the translation ran on the event loop"


# On the real engine


class Answer(pydantic.BaseModel):
    confidence: float = pydantic.Field(ge=0, le=1)
    kind: str = pydantic.Field(pattern=r"^\d{2}-\w$")
    parent: Answer | None = None


REAL: list[Any] = [
    BOUNDED,
    Answer,
    {"type": "integer", "maximum": -1000},
    {"type": "string", "pattern": r"\d"},
    {"type": "array", "prefixItems": [{"type": "string", "maxLength": 4}, {"type": "number", "exclusiveMinimum": 2.5}]},
    {"type": "object", "properties": {"extra": True, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
     "required": ["next"]},
]  # fmt: skip


@pytest.mark.parametrize("form", REAL, ids=str)
@pytest.mark.engine
async def test_the_real_engine_keeps_to_it(form: Any):
    """Hot, so that only the grammar holds it; with the template and without."""
    async with llamacpp() as service:
        for raw in (False, True):
            try:
                await service.stream(
                    "Numbers: 1, 85, -3", response_format=form, temperature=1.8, max_tokens=90, raw=raw
                ).collect()
            except OutputValidationError as error:
                assert error.response.finish_reason == "length", error  # noqa: PT017  (the model may go on forever)


NESTED = {"$defs": {"P": {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]}},
          "type": "object", "properties": {"at": {"$ref": "#/$defs/P"}}, "required": ["at"]}  # fmt: skip
OTHER = {"$defs": {"P": {"const": 7}}, "type": "object", "properties": {"n": {"$ref": "#/$defs/P"}}, "required": ["n"]}


def tool(name: str, parameters: Any, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **more}}


@pytest.mark.parametrize(("choice", "arguments"), [("book", '{"at":{"x":'), ("count", '{"n":7}')])
@pytest.mark.engine
async def test_forced_calls_keep_their_definitions_apart(choice: str, arguments: str):
    tools = [tool("book", NESTED), tool("count", OTHER), tool("bare", None)]
    async with llamacpp(llamacpp_chat_template=TEMPLATE) as service:
        response = await service.chat_completion(MESSAGES, tools=tools, tool_choice=choice, max_tokens=40)
    assert response.tool_calls[0]["function"]["arguments"].startswith(arguments)


@pytest.mark.parametrize(
    "parameters",
    [{"type": "object", "properties": {"extra": True}}, {"properties": {"t": {"$ref": "#"}}}, {}, NESTED,
     {"type": "object", "properties": {"s": {"type": "string", "pattern": r"^\d+$"}, "l": {"items": False}}}],
)  # fmt: skip
@pytest.mark.engine
async def test_the_engine_takes_the_parameters_of_a_tool(parameters: Any):
    async with llamacpp(llamacpp_chat_template=TEMPLATE) as service:
        response = await service.chat_completion(MESSAGES, tools=[tool("book", parameters)], max_tokens=4)
    assert response.usage is not None


FORM = {"type": "object", "properties": {"answer": {"type": "boolean"}}, "required": ["answer"]}


@pytest.mark.engine
async def test_the_engine_writes_a_call_or_the_json():
    asked: dict[str, Any] = {"response_format": FORM, "max_tokens": 60, "tools": [tool("book", NESTED)]}
    async with llamacpp(llamacpp_chat_template=TEMPLATE) as service:
        for seed in range(3):
            response = await service.chat_completion(MESSAGES, seed=seed, temperature=1.9, **asked)
            if response.tool_calls:
                assert response.tool_calls[0]["function"]["name"] == "book"
                assert (response.finish_reason, response.content) == ("tool_calls", "")
            else:
                assert set(response.parsed) == {"answer"}


@pytest.mark.parametrize("form", [FORM, {"type": "json_object"}])
@pytest.mark.parametrize("text", ['{"answer": true}', '{"name": "book", "arguments": {"at": {"x": true}}}'])
async def test_a_call_is_told_from_the_json(form: dict[str, Any], text: str):
    request = build_request(
        messages=MESSAGES, max_tokens=9, temperature=0, top_p=1, tools=[tool("book", NESTED)],
        options={"response_format": form},
    )  # fmt: skip
    body: dict[str, Any] = {"messages": [], "tools": request.tools}
    adjust(body, request)
    assert body["tool_choice"] == "none"
    assert "book" in str(body["response_format"])

    async def written() -> AsyncIterator[list[LLMChunk]]:
        yield [LLMChunk(content=text[:9]), LLMChunk(content=text[9:])]
        yield [LLMChunk(finish_reason="stop")]

    response = join([batch async for batch in as_calls(written(), request)])
    if "name" in text:
        assert response.tool_calls is not None
        assert response.tool_calls[0]["function"] == {"name": "book", "arguments": '{"at":{"x":true}}'}
        assert (response.content, response.finish_reason) == ("", "tool_calls")
    else:
        assert (response.content, response.tool_calls, response.finish_reason) == (text, None, "stop")


@pytest.mark.parametrize(
    ("text", "tools", "name", "arguments"),
    [
        ('{', ["book"], None, None),
        ('{"na', ["book"], "book", ""),
        ('{"name":', ["book"], "book", ""),
        ('{"name": "bo', ["book", "count"], "book", ""),
        ('{"name": "', ["book", "count"], None, None),
        ('{"name": "book", "argu', ["book", "count"], "book", ""),
        ('{"name": "book", "arguments": {"at"', ["book"], "book", '{"at"'),
        ('{"ans', ["book"], None, None),
    ],
)  # fmt: skip
async def test_where_a_cut_leaves_no_doubt_it_is_a_call(text: str, tools: list[str], name: Any, arguments: Any):
    request = build_request(
        messages=MESSAGES, max_tokens=9, temperature=0, top_p=1, tools=[tool(one, NESTED) for one in tools],
        options={"response_format": FORM},
    )  # fmt: skip

    async def written() -> AsyncIterator[list[LLMChunk]]:
        yield [LLMChunk(content=text, finish_reason="length")]

    response = join([batch async for batch in as_calls(written(), request)])
    assert response.finish_reason == "length"
    if name is None:
        assert (response.content, response.tool_calls) == (text, None)
    else:
        assert response.tool_calls is not None
        assert response.tool_calls[0]["function"] == {"name": name, "arguments": arguments}


async def test_a_strict_tool_is_held_to_what_the_engine_enforces():
    async with StubServer() as server:
        config = MinerConfig(_env_file=None, llamacpp_api_base=server.v1)
        service: LLMService
        async with LlamaCppService(config) as service:
            given: dict[str, Any] = {"model": "m", "tools": [tool("f", UNIQUE, strict=True)]}
            with pytest.raises(UnsupportedFeatureError) as caught:
                await service.chat_completion(MESSAGES, **given)
            assert caught.value.param == "tools[0].function.parameters.properties.l.uniqueItems"
            response = await service.chat_completion(MESSAGES, unsupported="ignore", **given)
            assert response.ignored == ["tools[0].function.parameters.properties.l.uniqueItems"]
            assert (await service.chat_completion(MESSAGES, model="m", tools=[tool("f", UNIQUE)])).ignored == []
