"""Lines in system prompts that are for the client's vendor reach no engine; all else stays where it is."""

from __future__ import annotations

import aiohttp
import pytest

from miner.core.llms.llm_ollama import OllamaService
from miner.errors import ConfigError
from miner.gateway.dialect import Call
from miner.gateway.field_names import FieldNames
from miner.gateway.neutralize import CLIENT_LINES, client_lines_of, neutralize
from miner.gateway.settings import GatewaySettings
from tests.core.services import settings
from tests.gateway.serving import serving, vllm
from tests.servers.openai_stub import StubServer

LINE = "x-anthropic-billing-header: cc_version=2.1.37.0d9; cc_entrypoint=cli; cch=fa690;"
OTHER = "x-anthropic-billing-header: cc_version=2.1.37.0d9; cc_entrypoint=cli; cch=0b1c2;"
PROMPT = "You are an agent.\nToday's date: 2026-11-28\nWorking directory: ~/ann"
USER = {"role": "user", "content": "hi"}
NAME = "x-anthropic-billing-header"


def blocks(line):
    return [{"type": "text", "text": line}, {"type": "text", "text": PROMPT, "cache_control": {"type": "ephemeral"}}]


def texts(line, kind="text"):
    return [{"type": kind, "text": line}, {"type": kind, "text": PROMPT}]


async def post(url, body):
    async with aiohttp.ClientSession() as session, session.post(url, json={"model": "m", **body}) as reply:
        assert reply.status == 200, await reply.text()
        await reply.read()
        return reply.headers.get("x-miner-ignored-params", "")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", lambda line: {"max_tokens": 5, "system": blocks(line), "messages": [USER]}),
        ("/v1/messages", lambda line: {"max_tokens": 5, "system": f"{line}\n{PROMPT}", "messages": [USER]}),
        ("/v1/messages", lambda line: {"max_tokens": 5, "system": line + PROMPT, "messages": [USER], "stream": True}),
        ("/v1/chat/completions", lambda line: {"messages": [{"role": "system", "content": f"{line}\n{PROMPT}"}, USER]}),
        ("/v1/chat/completions", lambda line: {"messages": [{"role": "developer", "content": texts(line)}, USER]}),
        ("/v1/chat/completions", lambda line: {"n": 2, "messages": [{"role": "system", "content": line},
                                                                     {"role": "system", "content": PROMPT}, USER]}),
        ("/v1/responses", lambda line: {"instructions": f"{line}\r\n{PROMPT}", "input": "hi"}),
        ("/v1/responses", lambda line: {"input": [{"role": "developer", "content": texts(line, "input_text")}, USER]}),
        ("/api/chat", lambda line: {"messages": [{"role": "system", "content": f"{line}\n\n{PROMPT}"}, USER]}),
        ("/api/generate", lambda line: {"system": f"{line}\n{PROMPT}", "prompt": "hi"}),
    ],
)  # fmt: skip
async def test_a_line_that_changes_does_not_change_the_prompt(path, body):
    async with StubServer() as engine, serving(vllm(engine)) as served:
        listed = [await post(served.url + path, body(line)) for line in (LINE, OTHER)]
        sent = [generation["messages"] for generation in engine.bodies]
    assert all(NAME in names.split(", ") for names in listed)
    assert all(messages == sent[0] for messages in sent)
    system = sent[0][0]["content"]
    assert (system if isinstance(system, str) else "".join(part["text"] for part in system)) == PROMPT
    assert sent[0][1:] == [USER]


async def test_ollama_as_the_backend_gets_the_same():
    async with StubServer() as engine, serving(OllamaService(settings(ollama_base_url=engine.url))) as served:
        await post(f"{served.url}/v1/messages", {"max_tokens": 5, "system": blocks(LINE), "messages": [USER]})
        assert engine.bodies[-1]["messages"][0]["content"] == PROMPT


async def test_a_setting_switches_it_off():
    body = {"max_tokens": 5, "system": blocks(LINE), "messages": [USER]}
    async with StubServer() as engine, serving(vllm(engine), serve_neutralize="none") as served:
        assert NAME not in await post(f"{served.url}/v1/messages", body)
        assert engine.bodies[-1]["messages"][0]["content"] == f"{LINE}\n{PROMPT}"


async def test_counted_tokens_are_those_of_the_message():
    counted = []

    def tokenize(request):
        counted.append(request)
        return {"count": 9, "max_model_len": 2048, "tokens": [1] * 9}

    class Counts(StubServer):
        def _side(self, request):
            return (200, tokenize(request.json)) if request.path.endswith("/tokenize") else super()._side(request)

    async with Counts() as engine, serving(vllm(engine)) as served:
        body = {"system": blocks(LINE), "messages": [USER]}
        assert NAME in await post(f"{served.url}/v1/messages/count_tokens", body)
    assert counted[-1]["messages"][0]["content"] == PROMPT


@pytest.mark.parametrize(
    "text",
    [
        PROMPT,
        "Explain what the x-anthropic-billing-header: cch=fa690; line is.",
        "x-anthropic-billing-header: is a line of Claude Code.",
        "<total_tokens>14999436 tokens left</total_tokens>",
        "x-anthropic-beta: a=b;",
    ],
)
def test_what_may_be_for_the_model_stays(text):
    call = Call(arguments=[{"messages": [{"role": "system", "content": text}, dict(USER)]}])
    assert neutralize(call, CLIENT_LINES) == []
    assert call.arguments[0]["messages"] == [{"role": "system", "content": text}, USER]


def test_users_and_models_may_write_such_a_line():
    messages = [{"role": "user", "content": LINE}, {"role": "assistant", "content": LINE}]
    call = Call(arguments=[{"messages": [dict(message) for message in messages]}])
    assert neutralize(call, CLIENT_LINES) == []
    assert call.arguments[0]["messages"] == messages


def test_other_fields_and_a_missing_semicolon():
    for line in ("x-anthropic-billing-header: cc_version=2.1.90; cc_workload=cron; cch=1;", LINE.removesuffix(";")):
        call = Call(arguments=[{"messages": [{"role": "system", "content": f"{line}\n{PROMPT}"}]}])
        assert neutralize(call, CLIENT_LINES) == [NAME]
        assert call.arguments[0]["messages"][0]["content"] == PROMPT


def test_later_messages_keep_their_places_and_their_names():
    later = [USER, {"role": "system", "content": f"{LINE}\n3 tokens left"}, {"role": "user", "content": "go"}]
    messages = [{"role": "system", "content": LINE}, *later]
    names = FieldNames({"messages[0]": "system", "messages[1].content": "messages[0].content[2]"})
    call = Call(arguments=[{"messages": messages}], names=names)
    neutralize(call, CLIENT_LINES)
    assert call.arguments[0]["messages"] == [USER, {"role": "system", "content": "3 tokens left"}, later[2]]
    assert names.of("messages[0].content") == "messages[0].content[2]"
    assert names.of("messages[2].content") == "messages[3].content"


def test_a_conversation_is_never_left_empty():
    call = Call(arguments=[{"messages": [{"role": "system", "content": LINE}]}])
    neutralize(call, CLIENT_LINES)
    assert call.arguments[0]["messages"] == [{"role": "system", "content": ""}]


def test_the_setting():
    assert client_lines_of("all") == client_lines_of("TRUE") == client_lines_of(f" {NAME},") == CLIENT_LINES
    assert client_lines_of("none") == client_lines_of("off") == client_lines_of("0") == ()
    with pytest.raises(ConfigError, match="MINER_SERVE_NEUTRALIZE='dates': must be all, none"):
        GatewaySettings(_env_file=None, serve_neutralize="dates")


def test_each_kind_says_what_it_is_and_how_that_is_known():
    for line in CLIENT_LINES:
        assert line.sent_by
        assert len(line.meaning) > 40
        assert line.marker in LINE
