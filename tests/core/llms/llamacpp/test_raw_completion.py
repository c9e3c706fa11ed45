"""Replies that llama.cpp or Ollama cannot parse: with a scripted engine, and on the real one."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import pytest

from miner.config.config import MinerConfig
from miner.core.http.client import HttpClient
from miner.core.llms import get_backend
from miner.core.llms.contract.unparsed_reply import MalformedReplyError
from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.core.llms.llm_ollama import OllamaService
from tests.core.services import MESSAGES, WEATHER
from tests.paths import TEMPLATES
from tests.servers.openai_stub import StubServer

ERROR = {
    "code": 500,
    "message": "The model produced output that does not match the expected peg-native format",
    "type": "server_error",
}
CALL = '{"name": "get_weather", "arguments": {"city": "Paris"}}'


def delta(**fields):
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def piece(arguments, **more):
    return delta(tool_calls=[{"index": 0, "function": {"arguments": arguments, **more}}])


def written(*texts, finish="stop"):
    """A completion's stream, of three words of prompt and as many tokens as there are texts."""
    usage = {"prompt_tokens": 30, "completion_tokens": len(texts), "total_tokens": 30 + len(texts)}
    events = [{"choices": [{"index": 0, "text": text, "finish_reason": None}]} for text in texts]
    return [*events, {"choices": [{"index": 0, "text": "", "finish_reason": finish}]}, {"choices": [], "usage": usage}]


@asynccontextmanager
async def scripted(chat, completion, prompt="PROMPT"):
    """A service in front of a llama.cpp server that answers so; a completion is answered at most once."""
    completions = [completion]

    def reply(body):
        if "max_tokens" not in body:
            last = body["messages"][-1]
            return {"prompt": prompt + (f"[{last['content']}" if last["role"] == "assistant" else "")}
        return completions.pop() if "prompt" in body else chat

    async with (
        StubServer(reply=reply) as server,
        LlamaCppService(MinerConfig(_env_file=None, llamacpp_api_base=server.v1)) as service,
    ):
        yield service, server


def of_path(server, path):
    return [request.json for request in server.generations if request.path == path]


async def both(service, **arguments):
    """The reply, once streamed and joined and once whole."""
    yield await service.stream(messages=MESSAGES, **arguments).collect()
    yield await service.chat_completion(MESSAGES, **arguments)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    "chat", [(500, {"error": ERROR}), [delta(role="assistant"), {"error": ERROR}]], ids=["status", "event"]
)
async def test_what_the_engine_swallowed_is_had_by_one_more_generation(chat, streamed):
    async with scripted(chat, written("Hello ", "there.")) as (service, server):
        ask = {"temperature": 0.5, "seed": 7, "stop": ["END"], "max_tokens": 9}
        if streamed:
            reply = await service.stream(messages=MESSAGES, **ask).collect()
        else:
            reply = await service.chat_completion(MESSAGES, **ask)
        assert (reply.content, reply.finish_reason) == ("Hello there.", "stop")
        assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (30, 2)
        assert len(of_path(server, "/v1/chat/completions")) == 1  # never repeated as it was
        (body,) = of_path(server, "/v1/completions")
        assert body["prompt"] == "PROMPT"
        assert (body["temperature"], body["seed"], body["max_tokens"]) == (0.5, 7, 9)


async def test_what_was_sent_stays_and_the_rest_follows_it():
    chat = [delta(content="One two"), delta(content=" three"), {"error": ERROR}]
    async with scripted(chat, written(" four.")) as (service, server):
        pieces = [chunk.content async for chunk in service.stream(messages=MESSAGES, max_tokens=10) if chunk.content]
        assert pieces == ["One two", " three", " four."]
        (body,) = of_path(server, "/v1/completions")
        assert body["prompt"] == "PROMPT[One two three"
        assert body["max_tokens"] == 10 - 3
    async with scripted(chat, written(" four.")) as (service, server):
        reply = await service.chat_completion(MESSAGES, max_tokens=10)
        assert (reply.content, reply.finish_reason) == ("One two three four.", "stop")
        assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (30 - 3, 1 + 3)
    async with scripted(chat, written(" four.")) as (service, server):  # nothing is left of max_tokens
        reply = await service.chat_completion(MESSAGES, max_tokens=3)
        assert (reply.content, reply.finish_reason) == ("One two three", "length")
        assert reply.usage.completion_tokens == 3
        assert not of_path(server, "/v1/completions")


@pytest.mark.parametrize(
    ("texts", "content", "cities"),
    [
        (["Well. <tool_call>", CALL, "</tool_call>"], "Well.", ["Paris"]),
        (["<tool_call>", CALL[:-1]], "", ["Paris"]),
        (['<tool_call>{"name": "get_weather", ', '"arguments": {"town": 1}}'], None, []),
        (["I cannot."], "I cannot.", []),
    ],
)
async def test_what_can_be_read_of_a_call_is_one_and_the_rest_is_text(texts, content, cities):
    for streamed in (True, False):
        async with scripted([{"error": ERROR}], written(*texts)) as (service, server):
            if streamed:
                reply = await service.stream(messages=MESSAGES, tools=[WEATHER]).collect()
            else:
                reply = await service.chat_completion(MESSAGES, tools=[WEATHER])
            assert reply.content == ("".join(texts) if content is None else content)
            found = [json.loads(call["function"]["arguments"])["city"] for call in reply.tool_calls or ()]
            assert found == cities
            assert reply.finish_reason == ("tool_calls" if cities else "stop")
            assert len(server.generations) == 3


async def test_reasoning_that_the_prompt_opened_is_reasoning():
    text = f"Hm, Paris.\n</think>\n\n<tool_call>{CALL}"
    async with scripted([{"error": ERROR}], written(text), prompt="PROMPT<think>\n") as (service, _):
        reply = await service.chat_completion(MESSAGES, tools=[WEATHER])
        assert (reply.reasoning, reply.content) == ("Hm, Paris.", "")
        assert reply.tool_calls[0]["function"]["name"] == "get_weather"


async def test_calls_that_are_whole_are_the_reply_whatever_follows_them():
    begin = delta(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "get_weather", "arguments": "{"}}])
    chat = [begin, piece('"city": "Paris"}'), {"error": ERROR}]
    async with scripted(chat, written("never")) as (service, server):
        reply = await service.stream(messages=MESSAGES, tools=[WEATHER]).collect()
        assert json.loads(reply.tool_calls[0]["function"]["arguments"]) == {"city": "Paris"}
        assert reply.finish_reason == "tool_calls"
        assert reply.usage.completion_tokens > 0
        assert not of_path(server, "/v1/completions")


async def test_a_call_that_had_begun_is_completed_from_the_text():
    begin = delta(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "get_weather", "arguments": '{"city'}}])
    async with scripted([begin, {"error": ERROR}], written(f"<tool_call>{CALL}")) as (service, _):
        reply = await service.stream(messages=MESSAGES, tools=[WEATHER]).collect()
        assert reply.tool_calls[0]["id"] == "c1"
        assert json.loads(reply.tool_calls[0]["function"]["arguments"]) == {"city": "Paris"}
    async with scripted([begin, {"error": ERROR}], written("Something else.")) as (service, server):
        with pytest.raises(MalformedReplyError) as caught:
            await service.stream(messages=MESSAGES, tools=[WEATHER]).collect()
        assert not caught.value.retryable
        assert caught.value.http_status < 500
        assert len(of_path(server, "/v1/chat/completions")) == len(of_path(server, "/v1/completions")) == 1


async def test_an_end_without_text_waits_until_it_is_sure():
    """llama.cpp's parsers swallow whole replies too, and call it a stop."""
    usage = {"prompt_tokens": 30, "completion_tokens": 20, "total_tokens": 50}
    end = [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": usage}]
    async with scripted(end, written("Hello.")) as (service, _):
        chunks = [chunk async for chunk in service.stream(messages=MESSAGES)]
        assert [chunk.content for chunk in chunks if chunk.content] == ["Hello."]
        assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize(
    ("raw", "cities"), [('{"city": "Paris"}}', ["Paris"]), ('{"city": it\'s Paris', []), (f"to=x {CALL}", ["Paris"])]
)
async def test_ollama_tells_the_text_in_its_error(raw, cities, begun, streamed):
    error = {"error": f"error parsing tool call: raw='{raw}', err=invalid character"}
    first = {"model": "m", "message": {"role": "assistant", "content": "Well. "}, "done": False}
    answer = [first, error] if begun else (500, error)
    async with (
        StubServer(reply=lambda body: answer) as server,
        OllamaService(MinerConfig(_env_file=None, ollama_base_url=server.url)) as service,
    ):
        if streamed:
            reply = await service.stream(messages=MESSAGES, tools=[WEATHER]).collect()
        else:
            reply = await service.chat_completion(MESSAGES, tools=[WEATHER])
        assert [json.loads(call["function"]["arguments"])["city"] for call in reply.tool_calls or ()] == cities
        assert reply.finish_reason == ("tool_calls" if cities else "stop")
        assert reply.content.startswith("Well. " if begun else "")
        assert cities or reply.content.endswith(raw)
        assert len(server.generations) == 1


@pytest.mark.engine
async def test_on_the_real_engine_a_format_that_the_model_cannot_write(monkeypatch):
    """The template's replies begin with their recipient, which the demo model does not know."""
    paths = []
    stream = HttpClient.stream

    def noted(self, path, body, **options):
        paths.append(path)
        return stream(self, path, body, **options)

    config = MinerConfig(
        llamacpp_chat_template=str(TEMPLATES / "recipient.jinja"), llamacpp_threads=1, llamacpp_parallel=1,
        llamacpp_ctx_size=2048,
    )  # fmt: skip
    async with get_backend("llamacpp", config) as service:
        await service.load_model()
        monkeypatch.setattr(HttpClient, "stream", noted)
        for tools in (None, [WEATHER]):
            ask = {"messages": MESSAGES, "tools": tools, "max_tokens": 24, "temperature": 0}
            whole = await service.chat_completion(**ask)
            assert paths == ["/chat/completions", "/completions"]
            assert whole.content
            assert whole.finish_reason in ("stop", "length")
            assert 0 < whole.usage.completion_tokens <= 24
            assert whole.usage.cached_tokens >= whole.usage.prompt_tokens - 8
            joined = await service.stream(**ask).collect()
            assert joined.content == whole.content
            assert joined.usage.completion_tokens == whole.usage.completion_tokens
            paths.clear()
