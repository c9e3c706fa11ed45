"""VLLMService on the wire: the exact bodies that it sends, and vLLM's ways behind the contract."""

from __future__ import annotations

from typing import Any

import pytest

from miner.errors import (
    BackendProtocolError,
    InvalidRequestError,
    ModelNotFoundError,
    OutputValidationError,
    UnsupportedFeatureError,
)
from tests.core.llms.contract.test_failures import MODES, Faulty
from tests.core.services import MESSAGES, WEATHER, ask, read, speaking_to, text_of
from tests.servers import faults
from tests.servers.http import ResponseWriter
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import openai_reply, usage
from tests.servers.replay import ReplayServer

STREAMED = {
    "model": "m", "max_tokens": 512, "temperature": 0.7, "top_p": 0.95, "top_k": 0, "min_p": 0.0,
    "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
    "messages": [{"role": "user", "content": "hi"}], "stream": True, "stream_options": {"include_usage": True},
}  # fmt: skip
"""All of sampling is always sent, neutral where nothing was asked for. Every reply is a stream."""
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def vllm(server: Any, **given: Any) -> Any:
    return speaking_to("vllm", server, **given)


async def test_the_exact_body_of_each_verb():
    async with StubServer() as server, vllm(server) as service:
        await service.generate("hi")
        await service.chat_completion(MESSAGES)
        await read(service.stream("hi"))
        await read(service.stream(messages=MESSAGES))
        assert server.bodies == [STREAMED] * 4
        assert {request.path for request in server.generations} == {"/v1/chat/completions"}
        assert all(request.headers["content-type"] == "application/json" for request in server.generations)


NAMED = {"type": "function", "function": {"name": "get_weather"}}
STRICT = [{"type": "function", "function": {**WEATHER["function"], "strict": True}}]
OPTIONS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"max_tokens": 7, "temperature": 0, "top_p": 1}, {"max_tokens": 7, "temperature": 0, "top_p": 1}),
    ({"stop": "END"}, {"stop": ["END"]}),
    ({"stop": ["a", "b"]}, {"stop": ["a", "b"]}),
    ({"seed": 0}, {"seed": 0}),
    ({"top_k": 40, "min_p": 0.05}, {"top_k": 40, "min_p": 0.05}),
    ({"repeat_penalty": 1.2}, {"repetition_penalty": 1.2}),
    ({"presence_penalty": 0.5, "frequency_penalty": -0.5}, {"presence_penalty": 0.5, "frequency_penalty": -0.5}),
    ({"logit_bias": {7: 5}}, {"logit_bias": {"7": 5}}),
    ({"logprobs": True}, {"logprobs": True, "top_logprobs": 0}),
    ({"logprobs": 5}, {"logprobs": True, "top_logprobs": 5}),
    ({"response_format": {"type": "json_object"}}, {"response_format": {"type": "json_object"}}),
    ({"response_format": SCHEMA}, {"response_format": {"type": "json_schema", "json_schema": {
        "name": "output", "schema": SCHEMA, "strict": True}}}),
    ({"response_format": {"type": "regex", "regex": "a+"}}, {"structured_outputs": {"regex": "a+"}}),
    ({"response_format": {"type": "grammar", "grammar": "root ::= x"}},
     {"structured_outputs": {"grammar": "root ::= x"}}),
    ({"reasoning": False}, {"reasoning_effort": "none"}),
    ({"reasoning": True}, {"reasoning_effort": "medium"}),
    ({"reasoning": "high"}, {"reasoning_effort": "high"}),
    ({"tools": [WEATHER]}, {"tools": STRICT, "tool_choice": "auto"}),
    ({"tools": [WEATHER], "tool_choice": "none"}, {}),
    ({"tools": [WEATHER], "tool_choice": "required"}, {"tools": STRICT, "tool_choice": "required"}),
    ({"tools": [WEATHER], "tool_choice": "get_weather"}, {"tools": STRICT, "tool_choice": NAMED}),
    ({"tools": [WEATHER], "parallel_tool_calls": False},
     {"tools": STRICT, "tool_choice": "auto", "parallel_tool_calls": False}),
    ({"extra": {"chat_template_kwargs": {"x": 1}, "min_tokens": 3}},
     {"chat_template_kwargs": {"x": 1}, "min_tokens": 3}),
    ({"timeout": 30}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("options", "fields"), OPTIONS, ids=lambda item: "+".join(item) if item else "nothing")
async def test_the_exact_body_of_each_option(options: dict[str, Any], fields: dict[str, Any]):
    async with StubServer(reply="a") as server, vllm(server) as service:
        service._reasoning_parser["m"] = True  # the server has a parser of thoughts: see the test of that question
        for mode in MODES:
            try:
                if mode == "call":
                    await service.chat_completion(MESSAGES, **options)
                else:
                    await service.stream(messages=MESSAGES, **options).collect()
            except OutputValidationError:
                pass  # the answer here is always the same; the request is what counts
        assert server.bodies == [STREAMED | fields] * 2


async def test_a_tool_that_says_itself_that_it_is_not_strict_is_left_so():
    tool = {"type": "function", "function": {"name": "f", "strict": False}}
    async with StubServer() as server, vllm(server) as service:
        await service.chat_completion(MESSAGES, tools=[tool])
        assert server.bodies[0]["tools"] == [tool]


async def test_a_raw_prompt_goes_past_the_template():
    """Also: /v1/completions generates 16 tokens unless told otherwise."""
    async with StubServer() as server, vllm(server) as service:
        assert await service.generate("Once", raw=True) == "Hello there."
        assert text_of(await read(service.stream("Once", raw=True))) == "Hello there."
        expected = {name: value for name, value in STREAMED.items() if name != "messages"} | {"prompt": "Once"}
        assert server.bodies == [expected, expected]
        assert {request.path for request in server.generations} == {"/v1/completions"}


async def test_a_gap_is_filled_where_vllm_can():
    refusal = {"message": "suffix is only supported for models with FIM completion rendering", "param": "suffix"}

    def reply(body: dict[str, Any]) -> Any:
        return "Hello there." if body["prompt"] == "Once" else (400, {"error": {"code": 400, **refusal}})

    async with StubServer(reply=reply) as server, vllm(server) as service:
        assert await service.generate("Once", suffix=" the end") == "Hello there."
        assert (server.bodies[0]["prompt"], server.bodies[0]["suffix"]) == ("Once", " the end")
        with pytest.raises(UnsupportedFeatureError) as caught:
            await service.generate("Twice", suffix=" the end")
        assert caught.value.param == "suffix"


NO_TEMPLATE_TEXT = (
    "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template if the "
    "tokenizer does not define one."
)
NO_TEMPLATE = (400, {"error": {"message": NO_TEMPLATE_TEXT, "type": "BadRequestError", "param": None, "code": 400}})


def without_template(body: dict[str, Any]) -> Any:
    return NO_TEMPLATE if "messages" in body else "Once more."


@pytest.mark.parametrize("mode", MODES)
async def test_a_model_without_a_template_is_prompted_verbatim(mode: str):
    async with StubServer(reply=without_template) as server, vllm(server) as service:
        for _ in range(2):
            assert await ask(service, mode, "Once") == "Once more."
        assert [request.path for request in server.generations] == [
            "/v1/chat/completions", "/v1/completions", "/v1/completions",
        ]  # fmt: skip
        assert service.retries == 0
        with pytest.raises(UnsupportedFeatureError, match="no chat template: it accepts prompts") as caught:
            await service.chat_completion(MESSAGES)
        assert caught.value.param == "messages"
        assert "--chat-template FILE" in (caught.value.operator_hint or "")


@pytest.mark.parametrize("asked_before", [False, True])
async def test_a_model_without_a_template_knows_no_tools(asked_before: bool):
    async with StubServer(reply=without_template) as server, vllm(server) as service:
        if asked_before:
            await service.generate("Once")
        with pytest.raises(UnsupportedFeatureError, match="tools") as caught:
            await service.stream("Once", tools=[WEATHER]).collect()
        assert caught.value.param == "tools"
        response = await service.stream("Once", tools=[WEATHER], unsupported="ignore").collect()
        assert (response.content, response.ignored) == ("Once more.", ["tools"])
        assert all("tools" not in body for body in server.bodies if "prompt" in body)


async def test_reasoning_for_a_raw_prompt_is_refused_not_dropped():
    """The server's /v1/completions ignores unknown fields."""
    async with StubServer() as server, vllm(server) as service:
        with pytest.raises(InvalidRequestError, match="raw"):
            await service.generate("Once", raw=True, reasoning=True)
        assert server.bodies == []


async def test_a_tool_result_is_sent_back_unchanged():
    conversation = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c0", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}]},
        {"role": "tool", "tool_call_id": "c0", "content": "18"},
    ]  # fmt: skip
    async with StubServer() as server, vllm(server) as service:
        await service.chat_completion(conversation, tools=[WEATHER])
        assert server.bodies[0]["messages"] == conversation


async def test_a_final_assistant_message_is_continued():
    """A message is continued by vLLM only if it is told to."""
    async with StubServer() as server, vllm(server) as service:
        await service.chat_completion([*MESSAGES, {"role": "assistant", "content": "Sure"}])
        assert server.bodies[0]["continue_final_message"] is True
        assert server.bodies[0]["add_generation_prompt"] is False


async def test_more_tokens_than_the_context_holds_are_no_error():
    """A vLLM refuses max_tokens beyond max_model_len, and cuts it silently below."""
    cut = openai_reply("a b", finish_reason="length") | {"usage": usage(80, 20)}
    async with StubServer(max_model_len=100, reply=cut) as server, vllm(server) as service:
        response = await service.chat_completion(MESSAGES, max_tokens=5000)
        assert server.bodies[0]["max_tokens"] == 100
        assert (response.finish_reason, response.context_exhausted) == ("length", True)
        response = await service.chat_completion(MESSAGES, max_tokens=20)
        assert (server.bodies[1]["max_tokens"], response.context_exhausted) == (20, False)


async def test_models_names_aliases_and_none_named():
    async with StubServer(["m", "n"]) as server, vllm(server) as service:
        assert [(model.id, model.context_length) for model in await service.list_models()] == [("m", 2048), ("n", 2048)]
        with pytest.raises(ModelNotFoundError, match="serves several models and none was named") as caught:
            await service.generate("hi")
        assert caught.value.available == ["m", "n"]
        assert "Name one: m, n. Set DEFAULT_MODEL." in str(caught.value)
        for mode in MODES:
            with pytest.raises(ModelNotFoundError, match="has no model 'x'") as caught:
                await ask(service, mode, model="x")
            assert (caught.value.model, caught.value.available) == ("x", ["m", "n"])
            assert "Available: m, n" in str(caught.value)
            assert server.url in str(caught.value)
        await service.generate("hi", model="n")
        assert server.bodies[-1]["model"] == "n"
        assert set(service.models) == {"n"}


async def test_a_model_that_came_later_is_found_and_one_that_went_is_told():
    async with StubServer(["m"]) as server, vllm(server) as service:
        await service.generate("hi", model="m")
        server.models.append("new")
        await service.generate("hi", model="new")
        server.models.remove("m")
        with pytest.raises(ModelNotFoundError, match="does not exist"):
            await service.generate("hi", model="m")
        with pytest.raises(ModelNotFoundError, match="Available: new"):
            await service.generate("hi", model="m")


async def test_default_model_is_used():
    async with StubServer(["m", "n"]) as server, vllm(server, default_model="n") as service:
        response = await service.chat_completion(MESSAGES)
        assert (response.model, server.bodies[0]["model"]) == ("n", "n")


async def test_the_key_is_sent_and_a_wrong_one_is_reported():
    """/tokenize and /metrics are open on vLLM; the key goes there too."""
    from miner.errors import AuthenticationError

    async with StubServer(api_key="k1") as server:
        async with vllm(server, vllm_api_key="k1") as service:
            assert await service.generate("hi") == "Hello there."
            await service.count_tokens("hi")
            assert {request.headers.get("authorization") for request in server.requests} == {"Bearer k1"}
        async with vllm(server, vllm_api_key="other") as service:
            with pytest.raises(AuthenticationError, match="VLLM_API_KEY") as caught:
                await service.generate("hi")
            assert "other" not in str(caught.value)
            assert not await service.health_check()


async def test_token_counts():
    async with StubServer() as server, vllm(server) as service:
        assert await service.count_tokens("one two three") > 0
        assert await service.count_tokens(messages=MESSAGES, tools=[WEATHER]) > 0
        assert await service.count_tokens("one two three", raw=True) == 3
        bodies = [request.json for request in server.sent("/tokenize")]
        assert bodies == [
            {"model": "m", "messages": [{"role": "user", "content": "one two three"}]},
            {"model": "m", "messages": MESSAGES, "tools": [WEATHER]},
            {"model": "m", "prompt": "one two three"},
        ]


async def test_token_counts_of_a_model_without_a_template():
    class NoTemplate(StubServer):
        def _side(self, request: Any) -> Any:
            if request.path == "/tokenize" and "messages" in request.json:
                return NO_TEMPLATE
            return super()._side(request)

    async with NoTemplate() as server, vllm(server) as service:
        assert await service.count_tokens("one two three") == 3
        assert await service.count_tokens("one two three") == 3


async def test_embeddings():
    async with StubServer(capabilities=["embedding"]) as server, vllm(server) as service:
        vectors = await service.embed(["a", "bb"])
        assert vectors.embeddings == [[1.0, 1.0, 0.0], [2.0, 1.0, 0.0]]
        assert (vectors.dimensions, vectors.usage.prompt_tokens) == (3, 2)
        assert server.sent("/v1/embeddings")[-1].json == {
            "model": "m", "input": ["a", "bb"], "encoding_format": "float",
        }  # fmt: skip
        for wrong in ("", [], ["a", ""], 5, [1, "a"], [[]]):
            with pytest.raises(InvalidRequestError, match="texts must be"):
                await service.embed(wrong)


@pytest.mark.parametrize(
    "data", [[], [{"index": 0, "embedding": [1.0]}], [{"index": 0, "embedding": [1]}, {"index": 2, "embedding": [1]}]]
)
async def test_fewer_vectors_than_texts_are_an_error(data: list[Any]):
    async with StubServer(side={"/v1/embeddings": {"data": data}}) as server, vllm(server) as service:
        with pytest.raises(BackendProtocolError, match="for 2 texts"):
            await service.embed(["a", "b"])


async def test_a_text_server_makes_no_embeddings_and_an_embedding_server_no_text():
    """Protocol notes, 1.1: one server serves either; the other path is 404."""
    async with ReplayServer("vllm") as server, vllm(server) as service:
        with pytest.raises(UnsupportedFeatureError, match="does not serve embeddings"):
            await service.embed("hello", model="smollm2")
    async with Faulty(faults.status(404, {"detail": "Not Found"})) as server, vllm(server) as service:
        with pytest.raises(UnsupportedFeatureError, match="does not serve chat"):
            await service.generate("hi")


async def test_health(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("miner.core.llms.http_backend._HEALTH_SECONDS", 0.4)
    async with StubServer() as server:
        async with vllm(server) as service:
            health = await service.health()
            assert (health.state, health.models, bool(health)) == ("ready", ["m"], True)
            assert health.latency is not None
            assert await service.health_check()
            assert server.bodies == []
        async with vllm(server, default_model="other") as service:
            health = await service.health()
            assert not health
            assert "DEFAULT_MODEL 'other'" in (health.reason or "")
            assert "Available: m" in (health.hint or "")
    for behaviour in (faults.silent(), faults.status(503, everywhere=True), faults.not_json(everywhere=True),
                      faults.garbage_http(everywhere=True), faults.html_page(404, everywhere=True)):  # fmt: skip
        async with Faulty(behaviour) as broken, vllm(broken) as service:
            health = await service.health()
            assert (health.state, bool(health.reason), bool(health.hint)) == ("unavailable", True, True)
            assert not await service.health_check()
            assert "300 s" not in str(health)


class ProbedServer(StubServer):
    """Answers a GET to the paths that generate as `probed` says; None: never."""

    probed: tuple[int, int] | None = None

    async def handle(self, writer: ResponseWriter) -> None:
        path = writer.request.path
        if writer.request.method == "GET" and path in ("/v1/chat/completions", "/v1/embeddings"):
            if self.probed is None:
                await writer.hold()
            else:
                await writer.respond(self.probed[path.endswith("embeddings")], {"detail": "Not Found"})
            return
        await super().handle(writer)


async def test_what_a_server_serves_is_asked_once_and_told_beforehand(monkeypatch: pytest.MonkeyPatch):
    """Protocol notes, 1.1: a server has either the one route or the other, and says 405 to a GET of what it has."""
    monkeypatch.setattr("miner.core.llms.llm_vllm._PROBE_SECONDS", 0.2)
    for probed, chat, vectors in (((405, 404), True, False), ((404, 405), False, True), ((200, 200), True, True),
                                  ((500, 500), True, True), (None, True, True)):  # fmt: skip
        server = ProbedServer()
        server.probed = probed
        async with server, vllm(server) as service:
            [model] = await service.list_models()
            assert ("chat" in model.capabilities, "embeddings" in model.capabilities) == (chat, vectors)
            if not vectors:
                with pytest.raises(UnsupportedFeatureError, match="does not support embeddings"):
                    await service.embed("hello")
            if not chat:
                with pytest.raises(UnsupportedFeatureError, match="does not generate text"):
                    await service.generate("hi")
            asked = len(server.requests)
            await service.list_models()
            assert len(server.requests) == asked + 1
            assert server.bodies == []


def answer_with(details: dict[str, int] | None) -> dict[str, Any]:
    """A whole answer as vLLM 0.32 gives it with and without --reasoning-parser."""
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "completion_tokens_details": details}
    choice = {"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": usage}


async def test_reasoning_is_refused_without_a_reasoning_parser():
    """Without --reasoning-parser such a wish is ignored there silently; only the usage tells."""
    for details in (None, {"reasoning_tokens": 0}):
        async with StubServer(owner="vllm", reply=answer_with(details)) as server, vllm(server) as service:
            [model] = await service.list_models()
            assert ("reasoning" in model.capabilities) is (details is not None)
            asked = len(server.bodies)
            if details is None:
                for ask in (service.generate("hi", reasoning=True), service.stream("hi", reasoning="high").collect()):
                    with pytest.raises(UnsupportedFeatureError, match="reasoning"):
                        await ask
                assert len(server.bodies) == asked
                reply = await service.chat_completion(MESSAGES, reasoning=True, unsupported="ignore")
                assert reply.ignored == ["reasoning"]
            else:
                await service.generate("hi", reasoning=True)
            await service.generate("hi", reasoning=False)
            assert asked == 1


async def test_another_server_is_not_asked_to_compute_when_its_models_are_listed():
    """Behind such an address many models may wait to be loaded, and not everybody counts thinking tokens."""
    async with StubServer(["a", "b"], reply=answer_with(None)) as server, vllm(server) as service:
        assert all("reasoning" in model.capabilities for model in await service.list_models())
        assert server.bodies == []
        await service.generate("hi", "a", reasoning="low")
        assert [body["reasoning_effort"] for body in server.bodies] == ["low"]
