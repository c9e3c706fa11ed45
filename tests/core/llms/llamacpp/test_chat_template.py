"""Chat templates with limits, on the real engine."""

from __future__ import annotations

from contextlib import asynccontextmanager

import msgspec
import pytest

from miner.config.config import MinerConfig
from miner.core.http.client import HttpClient
from miner.core.llms import get_backend
from miner.errors import InvalidRequestError, UnsupportedFeatureError
from tests.paths import TEMPLATES

pytestmark = pytest.mark.engine

TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}


@asynccontextmanager
async def served(name):
    config = MinerConfig(
        llamacpp_chat_template=str(TEMPLATES / f"{name}.jinja"), llamacpp_threads=1, llamacpp_parallel=1,
        llamacpp_ctx_size=2048,
    )  # fmt: skip
    async with get_backend("llamacpp", config) as service:
        await service.load_model()
        yield service


@pytest.fixture
def sent(monkeypatch):
    """Path and JSON of everything that is sent to the engine, with the streams in one list."""
    requests = []
    request, stream = HttpClient.request, HttpClient.stream

    async def noted(self, method, path, body=None, **options):
        if body:
            requests.append((path, msgspec.json.decode(body)))
        return await request(self, method, path, body, **options)

    def streamed(self, path, body, **options):
        requests.append((path, msgspec.json.decode(body)))
        return stream(self, path, body, **options)

    monkeypatch.setattr(HttpClient, "request", noted)
    monkeypatch.setattr(HttpClient, "stream", streamed)
    return requests


def calls(*ids):
    made = [{"id": id, "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}} for id in ids]
    return {"role": "assistant", "content": None, "tool_calls": made}


def user(text):
    return {"role": "user", "content": text}


def system(text):
    return {"role": "system", "content": text}


CONVERSATIONS = {
    "systems": [system("a"), system("b"), user("c")],
    "a later system": [system("a"), user("b"), {"role": "assistant", "content": "c"}, system("d"), user("e")],
    "users": [user("a"), user("b")],
    "the assistant first": [{"role": "assistant", "content": "a"}, user("b")],
    "calls": [
        user("a"), calls("call_abcdef", "toolu_b"), {"role": "tool", "tool_call_id": "call_abcdef", "content": "b"},
        {"role": "tool", "tool_call_id": "toolu_b", "content": "c"}, user("d"),
    ],
}  # fmt: skip


async def test_a_strict_template_takes_every_conversation(sent):
    async with served("strict") as service:
        for messages in CONVERSATIONS.values():
            reply = await service.chat_completion(messages, tools=[TOOL], max_tokens=1, temperature=0)
            assert reply.finish_reason == "length"
            assert await service.count_tokens(messages=messages) > 10
        # What is known of the template is not asked again, and costs no request.
        sent.clear()
        for messages in CONVERSATIONS.values():
            await service.chat_completion(messages, tools=[TOOL], max_tokens=1, temperature=0)
        probes = ("/tokenize", "/completion")  # once, for saving a slot
        assert [path for path, _ in sent if path not in probes] == ["/chat/completions"] * len(CONVERSATIONS)


async def test_a_later_system_message_keeps_its_place_and_the_cache(sent):
    async with served("strict") as service:
        begun = CONVERSATIONS["a later system"]
        first = await service.chat_completion(begun, max_tokens=1, temperature=0)
        longer = [*begun, {"role": "assistant", "content": "f"}, system("g"), user("h")]
        second = await service.chat_completion(longer, max_tokens=1, temperature=0)
        assert second.usage.cached_tokens >= first.usage.prompt_tokens - 4
    bodies = [body["messages"] for path, body in sent if path == "/chat/completions"]
    assert [message["content"] for message in bodies[1]] == ["a", "b", "c", "d\n\ne", "f", "g\n\nh"]


async def test_what_cannot_be_said_is_an_error_that_names_the_message():
    messages = [
        user("a"),
        {"role": "assistant", "content": "b"},
        user("forbidden"),
        {"role": "assistant", "content": "c"},
    ]
    async with served("strict") as service:
        for ask in (
            service.chat_completion([*messages, user("d")], max_tokens=1),
            service.stream(messages=[*messages, user("d")], max_tokens=1).collect(),
            service.count_tokens(messages=[*messages, user("d")]),
        ):
            with pytest.raises(InvalidRequestError, match="This word is not allowed") as caught:
                await ask
            assert caught.value.param == "messages[2]"
            assert not any(word in str(caught.value) for word in ("Jinja", "CallExpression", "line "))
        with pytest.raises(InvalidRequestError, match=r"messages\[1\].*must be followed by tool messages"):
            await service.chat_completion([user("a"), calls("abcdefgh1")], max_tokens=1)


async def test_a_refusal_that_nobody_could_foresee_is_learned(sent):
    messages = [user("a"), user("b"), {"role": "assistant", "content": "c"}, user("d"), user("e"), user("f")]
    async with served("moody") as service:
        assert (await service.chat_completion(messages[:2], max_tokens=1)).finish_reason == "length"
        assert (await service.chat_completion(messages, max_tokens=1)).finish_reason == "length"
        sent.clear()
        assert (await service.chat_completion(messages, max_tokens=1)).finish_reason == "length"
    assert [path for path, _ in sent] == ["/chat/completions"]
    assert [message["content"] for message in sent[0][1]["messages"]] == ["a\n\nb", "c", "d\n\ne\n\nf"]


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "f"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "object", "properties": {"a": {"type": "integer"}}}}, "response_format"),
    ],
)
async def test_what_the_format_cannot_enforce_is_refused_before_the_first_token(sent, options, param):
    """llama.cpp's parsers for some formats build no grammar (Kimi K2, Functionary v3.2)."""
    async with served("recipient") as service:
        with pytest.raises(UnsupportedFeatureError) as caught:
            await service.chat_completion([user("a")], max_tokens=8, **options)
        assert caught.value.param == param
        assert all(path != "/chat/completions" for path, _ in sent)


@pytest.mark.parametrize("template", ["tools", "strict", "plain"])
async def test_arguments_that_are_no_json_are_read_by_the_model(template, sent):
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"city": "Par'}}
    history = [
        user("Go."), {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "This is no JSON."}, user("Again."),
    ]  # fmt: skip
    async with served(template) as service:
        reply = await service.chat_completion(history, tools=[TOOL], max_tokens=2)
        assert reply.usage.completion_tokens == 2
        body = next(body for path, body in reversed(sent) if "tools" in body or "<tools>" in str(body))
        assert "Par" in msgspec.json.encode(body["messages"]).decode()
