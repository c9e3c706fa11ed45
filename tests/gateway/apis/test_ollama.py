"""Ollama's API of the gateway: with the official `ollama` package, with our own OllamaService, and as Ollama's command
line asks.
"""

from __future__ import annotations

import asyncio
import json
from functools import cache

import aiohttp
import ollama
import pytest
import yaml
from jsonschema import Draft202012Validator

from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.core.llms.llm_ollama import OllamaService
from miner.core.llms.llm_vllm import VLLMService
from miner.core.llms.LLMService import LLMService
from miner.core.wire import Embedding, EmbeddingResponse, LLMChunk, LLMResponse, ModelInfo, TokenLogprob, TokenUsage
from miner.errors import (
    BackendError,
    ContextLengthError,
    ModelNotFoundError,
    StreamInterruptedError,
    UnsupportedFeatureError,
)
from tests.gateway.serving import Parrot, config, post, serving
from tests.servers import faults
from tests.servers.captures import DATA
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import delta, finish, usage_chunk
from tests.servers.replay import ReplayServer

USER = [{"role": "user", "content": "Why is the sky blue?"}]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
BLUE = [TokenLogprob("blue", -0.5, None, [TokenLogprob("red", -2)])]
CALLS = [
    delta(role="assistant", content=None),
    delta(
        tool_calls=[{"index": 0, "id": "call_a", "type": "function", "function": {"name": "weather", "arguments": ""}}]
    ),
    delta(tool_calls=[{"index": 0, "function": {"arguments": '{"city": '}}]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": '"Rome"}'}}]),
    delta(
        tool_calls=[
            {"index": 1, "id": "call_b", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
        ]
    ),
    finish("tool_calls"),
    usage_chunk(),
]


def vllm(server, **settings):
    return VLLMService(config(vllm_api_base=server.v1, max_retries=0, **settings))


def behind(served, **settings):
    """Our own OllamaService with the gateway as its Ollama."""
    return OllamaService(config(ollama_base_url=served.url, max_retries=0, **settings))


@cache
def schema(name):
    schemas = yaml.safe_load((DATA / "ollama-openapi.yaml").read_text(encoding="utf-8"))["components"]["schemas"]
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}})


def fits(name, value):
    """The value, which has the shape that Ollama's OpenAPI file gives to this answer, and all of its main fields."""
    errors = [error.message for error in schema(name).iter_errors(value)]
    assert not errors
    return value


async def asked(served, path, body=None, method="POST"):
    """Status, headers and the JSON values of the lines of an answer."""
    data = None if body is None else json.dumps(body)
    async with aiohttp.ClientSession() as session, session.request(method, served.url + path, data=data) as answer:
        text = await answer.text()
        kind = answer.headers["Content-Type"]
        lines = [json.loads(line) for line in text.splitlines()] if "json" in kind else [text]
        return answer.status, answer.headers, lines


class Loader(LLMService):
    """A backend that loads on demand, embeds, thinks and tells log probabilities; it keeps what it was asked."""

    name = "loader"
    capabilities = frozenset(
        "chat tools reasoning logprobs seed embeddings images keep_alive timeout json_object raw stop".split()
    )

    def __init__(self, settings=None):
        super().__init__(settings)
        self.requests = []
        self.up = False

    async def list_models(self):
        return [await self._get_model("small"), ModelInfo(id="default", aliases=["d"], loaded=False)]

    async def _get_model(self, model_name):
        return ModelInfo(
            id=model_name, context_length=512, loaded=self.up, size=1000, parameters=134_515_008, quantization="Q4_1",
            architecture="llama", dimensions=3, created=1_795_373_273, digest="a" * 64,
        )  # fmt: skip

    async def _embed(self, texts, model):
        vectors = [Embedding(place, [1.0, 2.0, float(len(text))]) for place, text in enumerate(texts)]
        return EmbeddingResponse(data=vectors, model=model, usage=TokenUsage(5, 0, 5))

    async def _load(self, info, keep_alive):
        self.up = True
        return await self._get_model(info.id)

    async def unload_model(self, model):
        was, self.up = self.up, False
        return was

    async def _chat(self, request):
        self.requests.append(request)
        self.up = request.keep_alive not in (0, "0s")
        return LLMResponse(
            content="blue", reasoning="hm", finish_reason="stop", usage=TokenUsage(3, 2, 5), model=request.model,
            logprobs=BLUE if request.logprobs is not None else None,
        )  # fmt: skip


# The official package


async def test_chat_over_a_recorded_engine():
    async with ReplayServer("vllm") as engine, serving(vllm(engine)) as served:
        api = ollama.AsyncClient(served.url)
        async with api:
            whole = await api.chat("smollm2", USER, options={"num_predict": 12})
            streamed = [part async for part in await api.chat("smollm2", USER, stream=True)]
    assert whole.message.role == "assistant"
    assert whole.message.content
    assert whole.done
    assert whole.done_reason in ("stop", "length")
    assert whole.model == "smollm2"
    assert whole.prompt_eval_count > 0
    assert whole.eval_count > 0
    assert whole.total_duration > 0
    assert "".join(part.message.content for part in streamed)
    assert [part.done for part in streamed] == [False] * (len(streamed) - 1) + [True]
    assert streamed[-1].eval_count > 0
    assert streamed[-1].message.content == ""


async def test_the_sync_client_over_the_smallest_backend():
    def use(url):
        with ollama.Client(url) as api:
            return (
                api.chat("any", USER).message.content,
                "".join(part.message.content for part in api.chat("any", USER, stream=True)),
                api.generate("any", "Hello").response,
                "".join(part.response for part in api.generate("any", "Hello", stream=True)),
                api.show("parrot").capabilities,
                [model.model for model in api.list().models],
            )

    async with serving(Parrot(config(default_model="parrot"))) as served:
        told = await asyncio.to_thread(use, served.url)
    assert told == (
        "You said: Why is the sky blue?", "You said: Why is the sky blue?", "You said: Hello", "You said: Hello",
        ["completion"], ["parrot"],
    )  # fmt: skip


async def test_what_the_client_asks_reaches_the_engine():
    async with StubServer() as engine, serving(vllm(engine)) as served:
        status, _, (line,) = await asked(
            served,
            "/api/chat",
            {
                "model": "m:latest",
                "messages": [{"role": "system", "content": "Be brief."}, *USER],
                "stream": False,
                "format": {"type": "object"},
                "think": "max",
                "keep_alive": "5m",
                "logprobs": True,
                "top_logprobs": 2,
                "truncate": True,
                "shift": False,
                "options": {
                    "num_predict": 7, "temperature": 0.25, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "seed": 11,
                    "stop": ["\n"], "repeat_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.25,
                    "num_ctx": 4096, "num_gpu": 1, "mirostat": 0,
                },
            },
        )  # fmt: skip
        sent = engine.bodies[-1]
    assert status == 422, line  # "Hello there." is no JSON object
    assert sent["model"] == "m"
    assert [turn["role"] for turn in sent["messages"]] == ["system", "user"]
    assert sent["max_tokens"] == 7
    assert {name: sent[name] for name in ("temperature", "top_p", "top_k", "min_p", "seed", "stop")} == {
        "temperature": 0.25, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "seed": 11, "stop": ["\n"],
    }  # fmt: skip
    assert (sent["repetition_penalty"], sent["presence_penalty"], sent["frequency_penalty"]) == (1.1, 0.5, 0.25)
    assert sent["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert sent["reasoning_effort"] == "max"
    assert sent["top_logprobs"] == 2


async def test_what_changes_nothing_is_told():
    options = {"num_ctx": 99999, "num_gpu": 1, "num_keep": 4, "mirostat": 0, "seed": -1, "top_k": 0, "min_p": 0.0}
    body = {"model": "m", "messages": USER, "keep_alive": "5m", "truncate": True, "options": options}
    async with StubServer() as engine, serving(vllm(engine)) as served:
        whole = await asked(served, "/api/chat", {**body, "stream": False})
        streamed = await asked(served, "/api/chat", body)
        smaller = await asked(served, "/api/chat", {**body, "options": {"num_ctx": 2048}})
        sent = engine.bodies[0]
    told = "options.num_gpu, options.num_keep, options.mirostat, truncate, keep_alive, options.num_ctx"
    assert whole[1]["X-Miner-Ignored-Params"] == streamed[1]["X-Miner-Ignored-Params"] == told
    assert smaller[1]["X-Miner-Ignored-Params"] == "truncate, keep_alive"
    assert "seed" not in sent
    assert sent["top_k"] == 0


@pytest.mark.parametrize(
    ("count", "tokens"), [(-1, 2048), (-2, 2048), (0, 512), (None, 512), (9, 9)], ids=["-1", "-2", "0", "unset", "9"]
)
async def test_how_many_tokens(count, tokens):
    async with StubServer() as engine, serving(vllm(engine)) as served:
        await asked(served, "/api/generate", {"model": "m", "prompt": "x", "options": {"num_predict": count}})
        assert engine.bodies[-1]["max_tokens"] == tokens


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"options": {"num_predict": -3}}, "options.num_predict"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"options": {"temperature": 3}}, "temperature"),
        ({"options": {"no_such": 1}}, "options.no_such"),
        ({"options": {"mirostat": 2}}, "options.mirostat"),
        ({"options": {"stop": [""]}}, "stop"),
        ({"format": "xml"}, "invalid format"),
        ({"format": {"type": "nothing"}}, "format: the JSON Schema is not valid"),
        ({"think": "loud"}, "think"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "x", "images": ["!"]}]}, "messages[0].images[0]"),
        ({"messages": [{"role": "user", "content": "x", "images": ["\u00e9"]}]}, "messages[0].images[0]"),
        ({"messages": [{"role": "user", "content": "x", "images": ["aGVsbG8="]}]}, "messages[0].images[0]"),
        ({"messages": [{"role": "user", "content": "x", "tool_name": "t"}]}, "messages[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"model": ""}, "model is required"),
        ({"modle": "m"}, "modle"),
        ({"_debug_render_only": True}, "_debug_render_only"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(fields, named):
    service = Loader()
    async with serving(service) as served, ollama.AsyncClient(served.url):
        status, _, (line,) = await asked(served, "/api/chat", {"model": "small", "messages": USER, **fields})
    assert (status, list(line)) == (400, ["error"])
    assert named in line["error"]
    assert service.requests == []


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"context": [1, 2]}, "context"),
        ({"raw": True, "system": "s"}, "raw"),
        ({"width": 512}, "width"),
    ],
)
async def test_what_a_generation_cannot_honour_is_refused_by_name(fields, named):
    service = Loader()
    async with serving(service) as served:
        status, _, (line,) = await asked(served, "/api/generate", {"model": "small", "prompt": "x", **fields})
    assert status == 400
    assert named in line["error"]
    assert service.requests == []


async def test_parallel_tools_streamed_and_the_way_back():
    async with StubServer(reply=CALLS) as engine, serving(vllm(engine)) as served:
        api = ollama.AsyncClient(served.url)
        async with api:
            parts = [part async for part in await api.chat("m", USER, tools=[WEATHER], stream=True)]
            whole = await api.chat("m", USER, tools=[WEATHER])
            engine.reply = "Sunny."
            last = await api.chat(
                "m",
                [
                    *USER,
                    whole.message,
                    {"role": "tool", "tool_name": "weather", "content": "sun"},
                    {"role": "tool", "tool_name": "weather", "content": "snow"},
                ],
                tools=[WEATHER],
            )
            sent = engine.bodies[-1]["messages"]
    calls = [call for part in parts for call in part.message.tool_calls or ()]
    assert [(call.function.name, call.function.arguments) for call in calls] == [
        ("weather", {"city": "Rome"}), ("weather", {}),
    ]  # fmt: skip
    assert parts[-1].done_reason == "stop"
    assert [call.function.arguments for call in whole.message.tool_calls] == [{"city": "Rome"}, {}]
    assert last.message.content == "Sunny."
    made = [call["id"] for call in sent[1]["tool_calls"]]
    assert len(set(made)) == 2
    assert [turn["tool_call_id"] for turn in sent[2:]] == made
    assert json.loads(sent[1]["tool_calls"][0]["function"]["arguments"]) == {"city": "Rome"}


async def test_calls_that_are_cut_short_end_with_length():
    cut = [*CALLS[:3], finish("length"), usage_chunk()]
    async with StubServer(reply=cut) as engine, serving(vllm(engine)) as served:
        body = {"model": "m", "messages": USER, "tools": [WEATHER]}
        streamed = await asked(served, "/api/chat", body)
        whole = await asked(served, "/api/chat", {**body, "stream": False})
    for status, _, lines in (streamed, whole):
        assert status == 200
        assert lines[-1]["done_reason"] == "length"
        assert not any(line["message"].get("tool_calls") for line in lines)


async def test_images_go_as_data_urls():
    service = Loader()
    async with serving(service) as served:
        api = ollama.AsyncClient(served.url)
        async with api:
            await api.chat("small", [{"role": "user", "content": "What is it?", "images": [PIXEL]}])
            await api.generate("small", "What is it?", images=[PIXEL], system="Be brief.")
    chat, generation = service.requests
    for request in (chat, generation):
        assert request.messages[-1].images()[0].image_url.url == f"data:image/png;base64,{PIXEL}"
        assert request.messages[-1].text() == "What is it?"
    assert generation.messages[0].text() == "Be brief."


async def test_thoughts_logprobs_and_raw():
    service = Loader()
    async with serving(service) as served:
        api = ollama.AsyncClient(served.url)
        async with api:
            whole = await api.chat("small", USER, think=True, logprobs=True, top_logprobs=1)
            parts = [p async for p in await api.generate("small", "x", raw=True, logprobs=True, stream=True)]
    assert whole.message.thinking == "hm"
    assert whole.logprobs[0].token == "blue"
    assert whole.logprobs[0].top_logprobs[0].token == "red"
    assert (parts[0].response, parts[0].thinking, parts[0].logprobs[0].logprob) == ("blue", "hm", -0.5)
    assert service.requests[0].reasoning is True
    assert service.requests[1].raw
    assert service.requests[1].prompt == "x"


async def test_embeddings():
    async with serving(Loader()) as served:
        api = ollama.AsyncClient(served.url)
        async with api:
            made = await api.embed("small", ["one", "three"], truncate=False, dimensions=3)
            one = await api.embed("small", "one")
            old = await api.embeddings("small", "four")
            none = await api.embed("small", [])
            with pytest.raises(ollama.ResponseError, match=r"input\[1\]") as caught:
                await api.embed("small", ["one", ""])
            with pytest.raises(ollama.ResponseError, match="dimensions"):
                await api.embed("small", "one", dimensions=2)
    assert made.embeddings == [[1.0, 2.0, 3.0], [1.0, 2.0, 5.0]]
    assert made.prompt_eval_count == 5
    assert one.embeddings == [[1.0, 2.0, 3.0]]
    assert old.embedding == [1.0, 2.0, 4.0]
    assert none.embeddings == []
    assert caught.value.status_code == 400


async def test_errors():
    async with StubServer() as engine, serving(vllm(engine)) as served:
        api = ollama.AsyncClient(served.url)
        async with api:
            for use in (api.chat("no", USER), api.generate("no", "x"), api.show("no"), api.embed("no", "x")):
                with pytest.raises(ollama.ResponseError, match="not found") as caught:
                    await use
                assert caught.value.status_code == 404
                assert "m" in caught.value.error
                assert engine.url not in caught.value.error
            engine.reply = faults.error_in_stream(texts=["Hel"])
            with pytest.raises(ollama.ResponseError, match="engine has died"):
                [part async for part in await api.chat("m", USER, stream=True)]
            with pytest.raises(ollama.ResponseError, match="cannot be pulled") as caught:
                await api.pull("llama3")
    assert caught.value.status_code == 501


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/nothing", 404),
        ("POST", "/api/create", 404),
        ("POST", "/api/push", 404),
        ("POST", "/api/copy", 404),
        ("DELETE", "/api/delete", 404),
        ("HEAD", "/api/blobs/sha256:1", 404),
        ("GET", "/api/chat", 405),
        ("DELETE", "/api/show", 405),
    ],
)
async def test_other_paths_and_methods(method, path, status):
    async with serving(Parrot(config(default_model="parrot"))) as served:
        told, headers, lines = await asked(served, path, method=method)
    assert told == status
    assert ("Allow" in headers) == (status == 405)
    if method != "HEAD":
        assert [list(line) for line in lines] == [["error"]]


# Shapes


async def test_answers_have_the_shapes_of_the_openapi_file():
    chat = {"model": "small", "messages": USER, "logprobs": True}
    async with serving(Loader(config(default_model="default"))) as served:
        lines = (await asked(served, "/api/chat", chat))[2]
        fits("ChatResponse", (await asked(served, "/api/chat", {**chat, "stream": False}))[2][0])
        pieces = (await asked(served, "/api/generate", {"model": "small", "prompt": "x"}))[2]
        whole = (await asked(served, "/api/generate", {"model": "small", "prompt": "x", "stream": False}))[2][0]
        fits("EmbedResponse", (await asked(served, "/api/embed", {"model": "small", "input": "x"}))[2][0])
        tags = fits("ListResponse", (await asked(served, "/api/tags", method="GET"))[2][0])
        ps = fits("PsResponse", (await asked(served, "/api/ps", method="GET"))[2][0])
        show = fits("ShowResponse", (await asked(served, "/api/show", {"name": "small"}))[2][0])
        version = fits("VersionResponse", (await asked(served, "/api/version", method="GET"))[2][0])
    for line in lines:
        fits("ChatStreamEvent", line)
    for line in pieces:
        fits("GenerateStreamEvent", line)
    assert list(fits("GenerateResponse", whole))[:3] == ["model", "created_at", "response"]
    assert all(isinstance(whole[name], int) for name in ("total_duration", "prompt_eval_count", "eval_count"))
    assert "load_duration" not in whole
    assert [model["name"] for model in tags["models"]] == ["default", "small"]
    assert tags["models"][1]["details"]["parameter_size"] == "134.52M"
    assert all(len(model["digest"]) == 64 for model in tags["models"])
    assert [model["name"] for model in ps["models"]] == ["small"]
    assert show["model_info"]["general.architecture"] == "llama"
    assert show["model_info"]["llama.context_length"] == 512
    assert show["capabilities"] == ["completion", "tools", "thinking", "vision", "embedding"]
    assert version["version"].split(".")[0] == "0"


async def test_lines_look_like_recorded_ones():
    async with ReplayServer("ollama") as engine:
        service = OllamaService(config(ollama_base_url=engine.url, max_retries=0))
        async with serving(service) as served:
            body = {"model": "smollm2", "messages": [{"role": "user", "content": "Hi"}]}
            async with post(served, body, "/api/chat") as answer:
                ours = [json.loads(line) for line in (await answer.text()).splitlines()]
                kind = answer.headers["Content-Type"]
        theirs = [json.loads(line) for line in engine.answered[-1].body.splitlines()]
    assert kind == "application/x-ndjson"
    assert [list(line) for line in ours] == [list(line) for line in theirs]
    assert [line["message"] for line in ours] == [line["message"] for line in theirs]
    assert ours[-1]["eval_count"] == theirs[-1]["eval_count"]
    assert abs(ours[-1]["eval_duration"] - theirs[-1]["eval_duration"]) <= 1


# As Ollama's command line asks


async def test_run_as_the_command_line_does():
    service = Loader()
    empty = {"system": "", "template": "", "verbose": False, "options": None}
    common = {"format": "", "options": {}, "_debug_render_only": False}
    async with serving(service) as served:
        assert (await asked(served, "/", method="HEAD"))[0] == 200
        assert (await asked(served, "/", method="GET"))[2] == ["Ollama is running"]
        shown = await asked(served, "/api/show", {"model": "small", "name": "", **empty})
        assert shown[0] == 200
        assert (await asked(served, "/api/ps", method="GET"))[2][0]["models"] == []
        load = {"model": "small", "prompt": "", "suffix": "", "system": "", "template": "", **common}
        loaded = await asked(served, "/api/generate", load)
        running = await asked(served, "/api/ps", method="GET")
        chat = await asked(served, "/api/chat", {"model": "small", "messages": USER, **common})
        stopped = await asked(served, "/api/generate", {**load, "keep_alive": "0s"})
        again = await asked(served, "/api/chat", {"model": "small", "messages": [], "keep_alive": 0})
    assert (loaded[2][0]["done_reason"], loaded[2][0]["response"]) == ("load", "")
    assert [model["name"] for model in running[2][0]["models"]] == ["small"]
    assert chat[2][-1]["done_reason"] == "stop"
    assert stopped[2][0]["done_reason"] == "unload"
    assert not service.up
    assert again[2][0] == {
        **again[2][0], "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "unload",
    }  # fmt: skip
    assert [request.max_tokens for request in service.requests] == [512]  # loading asks for no token


@pytest.mark.engine
async def test_a_real_engine_is_loaded_asked_and_unloaded():
    service = LlamaCppService(config(llamacpp_threads=1, llamacpp_parallel=1))
    async with serving(service) as served:
        api = ollama.AsyncClient(served.url)
        async with api:
            name = (await api.list()).models[0].model
            before = (await api.ps()).models
            loaded = await api.generate(name, "")
            running = [model.model for model in (await api.ps()).models]
            said = await api.chat(f"{name}:latest", USER, options={"num_predict": 3, "temperature": 0})
            with pytest.raises(ollama.ResponseError, match="exceeds the context length"):
                await api.chat(name, [{"role": "user", "content": "word " * 20_000}])
            unloaded = await api.generate(name, "", keep_alive=0)
            for _ in range(300):
                left = (await api.ps()).models
                if not left:
                    break
                await asyncio.sleep(0.2)
    assert before == []
    assert loaded.done_reason == "load"
    assert running == [name]
    assert said.message.content
    assert (said.done_reason, said.eval_count) == ("length", 3)
    assert unloaded.done_reason == "unload"
    assert left == []


async def test_loading_where_models_stay_loaded():
    async with StubServer() as engine, serving(vllm(engine)) as served:
        loaded = await asked(served, "/api/generate", {"model": "m", "keep_alive": "5m"})
        unknown = await asked(served, "/api/generate", {"model": "no"})
        stopped = await asked(served, "/api/generate", {"model": "m", "keep_alive": 0})
        assert engine.generations == []
    assert loaded[2][0]["done_reason"] == "load"
    assert loaded[1]["X-Miner-Ignored-Params"] == "keep_alive"
    assert unknown[0] == 404
    assert stopped[0] == 400
    assert "keep_alive" in stopped[2][0]["error"]


async def test_pulling_needs_the_admin_right():
    key = "a-key-of-sixteen-characters"
    async with serving(Parrot(config()), api_keys=key) as served:
        keyless = await asked(served, "/", method="HEAD")
        async with post(served, {"model": "x"}, "/api/pull", headers={"Authorization": f"Bearer {key}"}) as answer:
            refused = answer.status, await answer.json()
    assert keyless[0] == 401
    assert refused[0] == 403
    assert list(refused[1]) == ["error"]


# Our own service against our own gateway


async def test_our_service_text_stream_usage_and_models():
    async with (
        StubServer() as engine,
        serving(vllm(engine)) as served,
        behind(served, default_model="m") as service,
    ):
        whole = await service.chat_completion(USER)
        chunks = [chunk async for chunk in service.stream("Why?")]
        text = await service.generate("Why?", seed=5, stop=["x"])
        raw = await service.generate("Why?", raw=True)
        models = await service.list_models()
        healthy = await service.health_check()
    assert (whole.content, whole.finish_reason) == ("Hello there.", "stop")
    assert whole.usage == TokenUsage(21, 8, 29)
    assert "".join(chunk.content or "" for chunk in chunks) == text == raw == "Hello there."
    assert chunks[-1].usage == TokenUsage(21, 8, 29)
    assert isinstance(chunks[-1], LLMChunk)
    assert [(model.id, model.context_length) for model in models] == [("m", 2048)]
    assert healthy


async def test_our_service_tools_streamed_and_whole():
    async with (
        StubServer(reply=CALLS) as engine,
        serving(vllm(engine)) as served,
        behind(served, default_model="m") as service,
    ):
        whole = await service.chat_completion(USER, tools=[WEATHER])
        streamed = await service.stream(messages=USER, tools=[WEATHER]).collect()
    for response in (whole, streamed):
        assert response.finish_reason == "tool_calls"
        assert [json.loads(call["function"]["arguments"]) for call in response.tool_calls] == [{"city": "Rome"}, {}]
        assert [call["id"] for call in response.tool_calls] == ["call_a", "call_b"]


async def test_our_service_embeds():
    async with serving(Loader()) as served, behind(served) as service:
        made = await service.embed(["one", "three"], "small")
    assert made.embeddings == [[1.0, 2.0, 3.0], [1.0, 2.0, 5.0]]
    assert made.usage.prompt_tokens == 5


async def test_our_service_meets_typed_errors():
    long = {"message": "maximum context length is 2048 tokens. However, your prompt has 3000", "code": 400}
    async with (
        StubServer() as engine,
        serving(vllm(engine)) as served,
        behind(served, default_model="m") as service,
    ):
        with pytest.raises(ModelNotFoundError):
            await service.generate("Why?", model="no")
        engine.reply = (400, {"error": long})
        with pytest.raises(ContextLengthError):
            await service.generate("Why?")
        engine.reply = faults.truncated(["Hel", "lo"])
        with pytest.raises(StreamInterruptedError) as caught:
            await service.stream("Why?").collect()
        assert caught.value.partial.content.startswith("Hel")
        engine.reply = faults.status(500)
        with pytest.raises(BackendError):
            await service.generate("Why?")
    async with serving(Parrot(config(default_model="parrot"))) as served, behind(served) as service:
        with pytest.raises(UnsupportedFeatureError):
            await service.generate("Why?", model="parrot", seed=3)
        with pytest.raises(UnsupportedFeatureError):
            await service.chat_completion(USER, model="parrot", tools=[WEATHER])
        with pytest.raises(UnsupportedFeatureError):
            await service.embed("x", "parrot")
