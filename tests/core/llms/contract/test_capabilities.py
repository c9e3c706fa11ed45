"""Promise 1: a parameter is applied, refused by name, or (asked for) listed as ignored: every option, everywhere."""

from __future__ import annotations

from typing import Any

import pytest

from miner.core.llms import get_backend
from miner.core.llms.contract.capabilities import CAPABILITIES, refuse_unsupported
from miner.core.llms.contract.request import build_request
from miner.core.llms.LLMService import LLMService
from miner.core.wire import OPTIONS, ChatRequest
from miner.errors import InvalidRequestError, UnsupportedFeatureError
from tests.core.llms.contract.test_failures import Faulty
from tests.core.services import ENGINES, MESSAGES, WEATHER, read, settings, speaking_to
from tests.servers import faults
from tests.servers.openai_stub import StubServer

GIVEN: dict[str, Any] = {
    "stop": "x", "seed": 0, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0, "presence_penalty": 0,
    "frequency_penalty": 0.0, "logit_bias": {5: 1}, "logprobs": True, "response_format": {"type": "json_object"},
    "reasoning": True, "parallel_tool_calls": True, "keep_alive": 0, "raw": True, "progress": True,
    "continuous_usage": True, "extra": {"options": {"num_ctx": 64}},
}  # fmt: skip
"""A value for each option; where a value can be zero, zero: it is asked for all the same."""

LACKS = {
    "vllm": {"keep_alive", "progress", "context"},
    "ollama": {"logit_bias", "progress", "continuous_usage", "reasoning"},
}
"""Protocol notes, section 4. (The stub's Ollama model does not think.)"""


def test_each_option_has_a_value_here():
    assert set(GIVEN) == set(OPTIONS) - {
        "timeout",
        "suffix",
        "echo",
        "context",
    }  # the last three go with a prompt, not with these messages
    assert set(OPTIONS) <= CAPABILITIES


@pytest.mark.parametrize("name", GIVEN)
def test_what_is_lacking_is_refused_or_listed_even_when_it_is_zero(name: str):
    def request_of(unsupported: str | None = None) -> ChatRequest:
        return build_request(
            prompt="x", max_tokens=1, temperature=0, top_p=1, unsupported=unsupported, options={name: GIVEN[name]}
        )

    nothing: frozenset[str] = frozenset({"chat"})
    with pytest.raises(UnsupportedFeatureError, match=f"tiny does not support {name}") as caught:
        refuse_unsupported(request_of(), nothing, "tiny")
    assert caught.value.param == name
    assert 'unsupported="ignore"' in (caught.value.hint or "")
    request = refuse_unsupported(request_of("ignore"), nothing, "tiny")
    assert request.resolution.ignored == [name]
    plain = build_request(prompt="x", max_tokens=1, temperature=0, top_p=1, options={})
    assert getattr(request, name) == getattr(plain, name)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", GIVEN)
async def test_every_option_on_every_backend_is_sent_or_refused_before_anything_is_sent(engine: str, name: str):
    given = {name: GIVEN[name]}
    async with StubServer(reply="{}") as server, speaking_to(engine, server) as service:
        if name in LACKS[engine]:
            with pytest.raises(UnsupportedFeatureError) as caught:
                await service.generate("hi", **given)
            assert caught.value.param == name
            assert name in caught.value.message
            assert server.bodies == []
            stream = service.stream("hi", unsupported="ignore", **given)
            await read(stream)
            assert stream.response.ignored == [name]
            return
        if (engine, name) == ("ollama", "stop"):
            return  # watched for on our side: test_stop_strings.py
        if engine == "vllm":
            service._reasoning_parser["m"] = True  # the server has a reasoning parser
        await service.generate("hi", **given)
        if name not in ("parallel_tool_calls",):  # means nothing without tools
            await service.generate("hi")
            assert server.bodies[0] != server.bodies[1] or GIVEN[name] in (0, 1.0)


@pytest.mark.parametrize("engine", ENGINES)
async def test_what_was_ignored_is_listed_in_the_response(engine: str):
    async with StubServer() as server, speaking_to(engine, server) as service:
        given = {name: GIVEN[name] for name in sorted(LACKS[engine] & GIVEN.keys())}
        response = await service.chat_completion(MESSAGES, unsupported="ignore", **given, seed=7)
        assert sorted(response.ignored) == sorted(given)
        assert (await service.chat_completion(MESSAGES, unsupported="ignore", seed=7)).ignored == []
        body = server.bodies[0]
        assert (body.get("options") or body)["seed"] == 7
        assert "logit_bias" not in str(body)
        assert "keep_alive" not in str(body)


async def test_a_model_without_tools_refuses_them_by_its_name():
    """Per-model abilities, from /api/show, decide."""
    async with StubServer(capabilities=["completion"]) as server, speaking_to("ollama", server) as service:
        with pytest.raises(UnsupportedFeatureError, match="ollama's model 'm:latest' does not support tools") as caught:
            await service.chat_completion(MESSAGES, tools=[WEATHER])
        assert caught.value.param == "tools"
        response = await service.chat_completion(MESSAGES, tools=[WEATHER], tool_choice="auto", unsupported="ignore")
        assert response.ignored == ["tools"]
        assert "tools" not in server.bodies[-1]


async def test_ollama_has_no_tool_choice_but_none():
    async with StubServer() as server, speaking_to("ollama", server) as service:
        for choice in ("required", "get_weather"):
            with pytest.raises(UnsupportedFeatureError, match="does not support tool_choice"):
                await service.chat_completion(MESSAGES, tools=[WEATHER], tool_choice=choice)
        await service.chat_completion(MESSAGES, tools=[WEATHER], tool_choice="none")
        await service.chat_completion(MESSAGES, tools=[WEATHER], tool_choice="auto")
        assert ["tools" in body for body in server.bodies] == [False, True]


@pytest.mark.parametrize(
    ("form", "kind"), [({"type": "regex", "regex": "a"}, "regex"), ({"type": "grammar", "grammar": "g"}, "grammar")]
)
async def test_a_format_that_an_engine_lacks_is_named(form: dict[str, Any], kind: str):
    async with StubServer() as server, speaking_to("ollama", server) as service:
        with pytest.raises(UnsupportedFeatureError, match=f"response_format \\({kind}\\)") as caught:
            await service.generate("hi", response_format=form)
        assert caught.value.param == "response_format"
        response = await service.chat_completion(MESSAGES, response_format=form, unsupported="ignore")
        assert response.ignored == ["response_format"]
        assert "format" not in server.bodies[-1]


NAMED = [
    {"role": "system", "content": "be brief", "name": "rules"},
    {"role": "user", "content": "hi"},
    {"role": "user", "content": "hi", "name": "alice"},
]


@pytest.mark.parametrize("engine", ENGINES)
async def test_the_name_of_a_message_is_refused_or_listed(engine: str):
    async with StubServer() as server, speaking_to(engine, server) as service:
        for place in (0, 2):
            with pytest.raises(UnsupportedFeatureError, match=f"does not support messages.{place}.\\.name") as caught:
                await service.chat_completion([*NAMED[1:2] * place, NAMED[place]])
            assert caught.value.param == f"messages[{place}].name"
            assert 'unsupported="ignore"' in (caught.value.hint or "")
        with pytest.raises(UnsupportedFeatureError, match="name"):
            await read(service.stream(messages=NAMED))
        assert server.bodies == []
        response = await service.chat_completion(NAMED, unsupported="ignore")
        assert response.ignored == ["messages[0].name", "messages[2].name"]
        stream = service.stream(messages=NAMED, unsupported="ignore")
        await read(stream)
        assert stream.response.ignored == response.ignored
        assert not any("name" in message for body in server.bodies for message in body["messages"])
        assert NAMED[2]["name"] == "alice"  # the caller's own are left as they are


@pytest.mark.parametrize("engine", ENGINES)
async def test_the_name_of_a_tool_message_is_sent(engine: str):
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    turns = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "rain"},
    ]
    async with StubServer() as server, speaking_to(engine, server) as service:
        assert (await service.chat_completion(turns)).ignored == []
        sent = server.bodies[0]["messages"][2]
        assert sent["tool_name" if engine == "ollama" else "name"] == "weather"


async def test_the_backend_that_answers_in_anothers_place_lists_the_names_too():
    async with Faulty(faults.status(503), everywhere=False) as first, StubServer() as second:
        config = settings(
            llm_backend="vllm", llm_fallbacks="ollama", vllm_api_base=first.v1, ollama_base_url=second.url,
            default_model="smollm2",
        )  # fmt: skip
        second.models.append("smollm2")
        async with get_backend(None, config) as service:
            response = await service.chat_completion(NAMED, unsupported="ignore")
    assert (response.backend, response.ignored) == ("ollama", ["messages[0].name", "messages[2].name"])


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
REMOTE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}


def showing(part: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": "what is this?"}, part]}]


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_picture_is_never_dropped_not_even_when_the_unsupported_may_be_ignored(engine: str):
    async with StubServer() as server, speaking_to(engine, server) as service:
        for mode in ("error", "ignore"):
            with pytest.raises(UnsupportedFeatureError, match="does not support images") as caught:
                await service.chat_completion(showing(PICTURE), unsupported=mode)
            assert caught.value.param == "messages[0].content"
        assert server.bodies == []


async def test_a_model_that_sees_gets_the_picture_and_no_address_of_one():
    async with StubServer(capabilities=["completion", "vision"]) as server, speaking_to("ollama", server) as service:
        await service.chat_completion(showing(PICTURE))
        assert server.bodies[0]["messages"] == [{"role": "user", "content": "what is this?", "images": ["aGk="]}]
        with pytest.raises(InvalidRequestError, match=r"not allowed\. .*MINER_ALLOW_REMOTE_IMAGES"):
            await service.chat_completion(showing(REMOTE))
        assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template",
         "messages"),
        ("m is not a multimodal model", "messages"),
    ],
)  # fmt: skip
async def test_what_only_the_engine_can_refuse_never_makes_us_drop_the_messages(message: str, param: str):
    def refuse(body: dict[str, Any]) -> Any:
        return 400, {"error": {"message": message, "type": "BadRequestError", "param": None, "code": 400}}

    async with StubServer(reply=refuse) as server, speaking_to("vllm", server) as service:
        for mode in ("error", "ignore"):
            with pytest.raises(UnsupportedFeatureError) as caught:
                await service.chat_completion(MESSAGES, unsupported=mode)
            assert caught.value.param == param
            with pytest.raises(UnsupportedFeatureError):
                await read(service.stream(messages=MESSAGES, unsupported=mode))
        assert all(body["messages"] == MESSAGES for body in server.bodies)
        assert len(server.bodies) == 4


@pytest.mark.parametrize("mode", ["call", "stream"])
async def test_tools_that_only_the_server_can_refuse(mode: str):
    """Whether vLLM knows tools is not known before it answers 400."""

    def refuse(body: dict[str, Any]) -> Any:
        if "tools" not in body:
            return "No tools."
        said = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
        return 400, {"error": {"message": said, "type": "BadRequestError", "param": None, "code": 400}}

    async def ask(service: LLMService, **given: Any) -> Any:
        if mode == "call":
            return await service.chat_completion(MESSAGES, tools=[WEATHER], **given)
        return await service.stream(messages=MESSAGES, tools=[WEATHER], **given).collect()

    async with StubServer(reply=refuse) as server, speaking_to("vllm", server) as service:
        with pytest.raises(UnsupportedFeatureError, match="enable-auto-tool-choice") as caught:
            await ask(service)
        assert caught.value.param == "tools"
        assert "--tool-call-parser NAME" in (caught.value.operator_hint or "")
        response = await ask(service, unsupported="ignore")
        assert (response.content, response.ignored) == ("No tools.", ["tools"])


async def test_capabilities_are_a_fixed_set():
    from miner.core.llms.llm_ollama import OllamaService
    from miner.core.llms.llm_vllm import VLLMService

    for kind in (OllamaService, VLLMService):
        service = kind(settings())
        assert isinstance(service.capabilities, frozenset)
        assert service.capabilities <= CAPABILITIES
        lacking = LACKS[service.name] - {"reasoning"}
        assert set(OPTIONS) - service.capabilities - {"echo"} == lacking
    assert {"regex", "grammar", "tool_choice", "count_tokens"} <= VLLMService(settings()).capabilities
    assert not {"regex", "grammar", "tool_choice", "count_tokens"} & OllamaService(settings()).capabilities
