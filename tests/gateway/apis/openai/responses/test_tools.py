"""Tools of OpenAI's that are no plain functions: namespaces, custom tools, and the items of their calls."""

from __future__ import annotations

import json

import pytest
from openai import AsyncOpenAI

from miner.gateway.apis.openai.responses.tools import InputReader, custom_input, function_name
from tests.gateway.serving import post, serving, vllm
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import delta, finish, usage_chunk

PATH = "/v1/responses"
PARAMETERS = {"type": "object", "properties": {"id": {"type": "string"}}}
NAMESPACE = {
    "type": "namespace",
    "name": "agents",
    "description": "Agents that help.",
    "tools": [
        {"type": "function", "name": "close", "description": "Close one.", "parameters": PARAMETERS, "strict": False},
        {"type": "custom", "name": "talk", "description": "Say something."},
    ],
}
PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edit files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"},
}
SHELL = {"type": "function", "name": "shell", "parameters": PARAMETERS}
TOOLS = [SHELL, NAMESPACE, PATCH, {"type": "web_search", "external_web_access": False}]


def calls(*pairs):
    """A stream in which the model calls these functions with these arguments."""
    events = [
        delta(tool_calls=[{"index": at, "id": f"call_{at}", "type": "function", "function": {
            "name": name, "arguments": arguments}}])
        for at, (name, arguments) in enumerate(pairs)
    ]  # fmt: skip
    return [*events, finish("tool_calls"), usage_chunk()]


async def create(served, body, **options):
    async with post(served, {"model": "m", "input": "Go", "tools": TOOLS, **body}, PATH, **options) as answer:
        return answer.status, await answer.json(), answer.headers


async def test_tools_reach_the_model_as_functions_and_come_back_as_what_they_are():
    said = calls(
        ("shell", '{"id":"1"}'), ("agents__close", '{"id":"2"}'), ("agents__talk", '{"input":"Hi"}'),
        ("apply_patch", '{"input":"*** Begin\\n+a"}'), )  # fmt: skip
    async with StubServer(reply=said) as engine, serving(vllm(engine)) as served:
        status, body, headers = await create(served, {})
        sent = engine.bodies[-1]["tools"]
    assert status == 200
    functions = {tool["function"]["name"]: tool["function"] for tool in sent}
    assert list(functions) == ["shell", "agents__close", "agents__talk", "apply_patch"]
    assert functions["agents__close"]["parameters"] == PARAMETERS
    assert functions["agents__close"]["description"] == "Agents that help.\n\nClose one."
    assert functions["apply_patch"]["parameters"]["required"] == ["input"]
    assert "start: /.+/" in functions["apply_patch"]["description"]
    assert set(headers["x-miner-ignored-params"].split(", ")) == {"tools.type", "tools.format"}
    shown = [
        (item["type"], item["name"], item.get("namespace"), item.get("arguments", item.get("input")))
        for item in body["output"]
    ]
    assert shown == [
        ("function_call", "shell", None, '{"id":"1"}'),
        ("function_call", "close", "agents", '{"id":"2"}'),
        ("custom_tool_call", "talk", "agents", "Hi"),
        ("custom_tool_call", "apply_patch", None, "*** Begin\n+a"),
    ]
    assert body["tools"][1:] == TOOLS[1:]


async def test_calls_go_back_into_the_history_as_they_were():
    said = calls(("agents__close", '{"id":"2"}'), ("apply_patch", '{"input":"+a\\n"}'))
    async with StubServer(reply=said) as engine, serving(vllm(engine)) as served:
        _, body, _ = await create(served, {})
        engine.reply = "Done."
        outputs = [
            {"type": "function_call_output", "call_id": "call_0", "output": "closed"},
            {"type": "custom_tool_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "ok"}]},
        ]
        status, *_ = await create(served, {"input": [{"role": "user", "content": "Go"}, *body["output"], *outputs]})
        sent = engine.bodies[-1]["messages"]
    assert status == 200
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "tool"]
    functions = [call["function"] for call in sent[1]["tool_calls"]]
    assert [function["name"] for function in functions] == ["agents__close", "apply_patch"]
    assert json.loads(functions[1]["arguments"]) == {"input": "+a\n"}
    assert [message["content"] for message in sent[2:]] == ["closed", "ok"]


async def test_items_of_other_client_tools_and_of_servers():
    items = [
        {"role": "user", "content": "Go"},
        {"type": "local_shell_call", "id": "ls_1", "call_id": "c1", "status": "completed",
         "action": {"type": "exec", "command": ["ls"], "env": {}}},
        {"type": "local_shell_call_output", "id": "o1", "call_id": "c1", "output": "a b"},
        {"type": "shell_call", "call_id": "c2", "action": {"commands": ["pwd"]}},
        {"type": "shell_call_output", "call_id": "c2", "output": [{"stdout": "/", "stderr": ""}]},
        {"type": "apply_patch_call", "call_id": "c3", "status": "completed",
         "operation": {"type": "delete_file", "path": "x"}},
        {"type": "apply_patch_call_output", "call_id": "c3", "status": "completed", "output": "gone"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}},
        {"type": "mcp_list_tools", "id": "m", "server_label": "s", "tools": []},
        {"type": "tool_search_output", "tools": [{"type": "function", "name": "found", "parameters": PARAMETERS}]},
        {"role": "user", "content": "And?"},
    ]  # fmt: skip
    async with StubServer() as engine, serving(vllm(engine)) as served:
        status, _, headers = await create(served, {"input": items, "tools": [SHELL]})
        sent = engine.bodies[-1]
    assert status == 200
    roles = [message["role"] for message in sent["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant", "tool", "assistant", "tool", "user"]
    assert '"ls"' in sent["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert [message["content"] for message in sent["messages"] if message["role"] == "tool"][::2] == ["a b", "gone"]
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["shell", "found"]
    assert set(headers["x-miner-ignored-params"].split(", ")) == {"input.web_search_call", "input.mcp_list_tools"}


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("required", "required"),
        ("none", "none"),
        ({"type": "function", "name": "shell"}, "shell"),
        ({"type": "function", "name": "close", "namespace": "agents"}, "agents__close"),
        ({"type": "custom", "name": "apply_patch"}, "apply_patch"),
        ({"type": "function", "function": {"name": "shell"}}, "shell"),
    ],
)
async def test_choices(choice, sent):
    called = sent if sent not in ("required", "none") else "shell"
    said = "No." if sent == "none" else calls((called, '{"input":"1","id":"1"}'))
    async with StubServer(reply=said) as engine, serving(vllm(engine)) as served:
        status, body, _ = await create(served, {"tool_choice": choice})
        got = engine.bodies[-1].get("tool_choice", "none")
    assert (status, body["tool_choice"]) == (200, choice)
    assert (got["function"]["name"] if isinstance(got, dict) else got) == sent


async def test_allowed_tools_of_every_kind():
    allowed = [
        {"type": "function", "name": "close", "namespace": "agents"}, {"type": "custom", "name": "apply_patch"},
        {"type": "web_search"},
    ]  # fmt: skip
    choice = {"type": "allowed_tools", "mode": "required", "tools": allowed}
    async with StubServer(reply=calls(("agents__close", "{}"))) as engine, serving(vllm(engine)) as served:
        status, _, headers = await create(served, {"tool_choice": choice})
        sent = engine.bodies[-1]
        engine.reply = "No."
        only_searching = {**choice, "mode": "auto", "tools": [{"type": "web_search"}]}
        await create(served, {"tool_choice": only_searching})
        last = engine.bodies[-1]
    assert status == 200
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["agents__close", "apply_patch"]
    assert sent["tool_choice"] == "required"
    assert "tool_choice.tools" in headers["x-miner-ignored-params"]
    assert last.get("tool_choice", "none") == "none"


@pytest.mark.parametrize(
    ("tool", "named"),
    [
        ({"type": "namespace", "name": "n"}, "tools[0]"),
        ({"type": "namespace", "name": "n", "tools": [{"name": "x"}]}, "tools[0].tools[0].type"),
        ({"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "x", "parameters": 5}]},
         "tools[0].tools[0]"),
        ({"type": "custom"}, "tools[0]"),
        ({"name": "x"}, "tools[0].type"),
    ],
)  # fmt: skip
async def test_a_wrong_tool_is_named_as_the_client_wrote_it(tool, named):
    async with StubServer() as engine, serving(vllm(engine)) as served:
        status, body, _ = await create(served, {"tools": [tool]})
    assert (status, body["error"]["param"]) == (400, named)


async def test_reasoning_survives_the_round_trip_whatever_of_it_a_client_keeps():
    said = [delta(reasoning="Hm."), delta(content="Hi."), finish()]
    async with (
        StubServer(reply=said) as engine,
        serving(vllm(engine)) as served,
        AsyncOpenAI(base_url=served.v1, api_key="any-key-at-all-will-do", max_retries=0) as api,
    ):
        include = ["reasoning.encrypted_content"]
        first = await api.responses.create(model="m", input="Hi", include=include, store=False)
        item = first.output[0].to_dict()
        kept = [
            {**item, "content": None, "summary": []},
            {"type": "reasoning", "id": "rs_x", "summary": item["summary"], "encrypted_content": "of-another"},
            {"type": "reasoning", "id": "rs_x", "summary": [], "content": item["content"]},
        ]
        for one in kept:
            turns = [{"role": "user", "content": "Hi"}, one, first.output[1].to_dict()]
            await api.responses.create(model="m", input=[*turns, {"role": "user", "content": "And?"}])
            assert engine.bodies[-1]["messages"][1]["reasoning"] == "Hm."


def test_names_fit_and_differ():
    long = function_name("t" * 60, "n" * 60)
    assert len(long) == 64
    assert long != function_name("t" * 61, "n" * 60)
    assert function_name("read", "mcp__files__") == "mcp__files__read"
    assert function_name("a.b", "x y") == "x_y__a_b"


@pytest.mark.parametrize(
    "text", ["", "plain", 'quo"te \\ back', "line\nline\ttab\r", "é ü 漢字", "😀 and 🎉", "\u2028\x00\x1f", "x" * 5000]
)
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 100_000])
def test_the_input_is_read_from_pieces_of_any_size(text, ascii_only, size):
    arguments = json.dumps({"input": text}, ensure_ascii=ascii_only)
    reader = InputReader()
    pieces = [reader.feed(arguments[at : at + size]) for at in range(0, len(arguments), size)]
    assert "".join(pieces) == reader.text == custom_input(arguments) == text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"patch": "+a"}', "+a"),
        ('"+a"', "+a"),
        ("+a", "+a"),
        ('{"input": "cut\\n', "cut\n"),
        ('{"input": "cut\\u00', "cut"),
        ('{"inp', '{"inp'),
        ('{"input": 5}', '{"input": 5}'),
        ('{"a": "b", "c": "d"}', '{"a": "b", "c": "d"}'),
        ('{"input": "raw\nline"}', "raw\nline"),
    ],
)
def test_what_a_model_writes_otherwise_is_not_lost(arguments, text):
    assert custom_input(arguments) == text
