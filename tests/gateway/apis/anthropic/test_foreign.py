"""What Anthropic's clients send and Anthropic's own servers would do: tools, blocks and fields."""

from __future__ import annotations

import anthropic
import pytest

from tests.gateway.apis.anthropic.client import USER, WEATHER, client
from tests.gateway.serving import Parrot, config, post, serving, vllm
from tests.servers.openai_stub import StubServer

SERVER_TOOLS = [
    {"type": "web_search_20250305", "name": "web_search", "max_uses": 5, "allowed_domains": ["example.invalid"]},
    {"type": "web_fetch_20260318", "name": "web_fetch", "citations": {"enabled": True}},
    {"type": "code_execution_20260521", "name": "code_execution"},
    {"type": "computer_20251124", "name": "computer", "display_width_px": 1024, "display_height_px": 768},
    {"type": "mcp_toolset", "mcp_server_name": "x", "default_config": {"enabled": True}},
    {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"},
    {"type": "advisor_20260301", "name": "advisor", "model": "m"},
    {"type": "of_next_year_20270101", "name": "anything"},
]


async def create(api, **fields):
    told = await api.messages.with_raw_response.create(model="m", max_tokens=9, messages=USER, extra_body=fields)
    return [name for name in told.headers.get("x-miner-ignored-params", "").split(", ") if name]


@pytest.mark.parametrize("tool", SERVER_TOOLS, ids=lambda tool: tool["type"])
async def test_a_tool_of_anthropics_servers_is_left_out_and_listed(tool):
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        assert await create(api, tools=[tool, WEATHER]) == [f"tools.{tool['type']}"]
        assert [one["function"]["name"] for one in engine.bodies[-1]["tools"]] == ["weather"]
        assert await create(api, tools=[tool]) == [f"tools.{tool['type']}"]
        assert "tools" not in engine.bodies[-1]
        strict = api.with_options(default_headers={"X-Miner-Unsupported": "refuse"})
        with pytest.raises(anthropic.BadRequestError, match=r"tools\[1\]\.type.*" + tool["type"]):
            await create(strict, tools=[WEATHER, tool])


@pytest.mark.parametrize(
    ("tool", "name", "parameters"),
    [
        ({"type": "bash_20250124", "name": "bash"}, "bash", {"command", "restart"}),
        ({"type": "text_editor_20250728", "name": "str_replace_based_edit_tool", "max_characters": 10},
         "str_replace_based_edit_tool",
         {"command", "path", "file_text", "old_str", "new_str", "insert_line", "view_range"}),
        ({"type": "text_editor_20241022", "name": "str_replace_editor"}, "str_replace_editor",
         {"command", "path", "file_text", "old_str", "new_str", "insert_line", "view_range"}),
        ({"type": "memory_20250818", "name": "memory"}, "memory",
         {"command", "path", "view_range", "file_text", "old_str", "new_str", "insert_line", "insert_text", "old_path",
          "new_path"}),
    ],
)  # fmt: skip
async def test_a_tool_that_the_client_carries_out_is_a_function(tool, name, parameters):
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        assert await create(api, tools=[tool], tool_choice={"type": "auto"}) == []
        sent = engine.bodies[-1]
    assert sent["tools"][0]["function"]["name"] == name
    assert set(sent["tools"][0]["function"]["parameters"]["properties"]) == parameters
    commands = sent["tools"][0]["function"]["parameters"]["properties"]["command"].get("enum", [])
    assert ("undo_edit" in commands) == (name == "str_replace_editor")


async def test_an_error_names_the_tool_at_its_place_in_the_body():
    bad = {"name": "bad", "input_schema": {"type": "object", "properties": []}, "strict": True}
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        with pytest.raises(anthropic.BadRequestError, match=r"tools\[1\]\.input_schema"):
            await create(api, tools=[SERVER_TOOLS[0], bad])


async def test_fields_of_a_tool_that_are_not_known_are_listed():
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        tool = {**WEATHER, "defer_loading": True, "eager_input_streaming": True, "icon": "x", "cost": None}
        assert sorted(await create(api, tools=[tool])) == ["tools.defer_loading", "tools.icon"]


ADDING = {
    "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]},
    "compaction": {"enabled": True},
    "fallbacks": [{"model": "other"}],
    "betas": ["something-2027-01-01"],
    "diagnostics": {"previous_message_id": "msg_1"},
    "speed": "fast",
    "workspace_id": "w",
    "service_tier": "flex",
    "of_next_year": {"a": 1},
}
CHANGING = {
    "container": {"skills": [{"type": "anthropic", "skill_id": "pptx"}]},
    "mcp_servers": [{"type": "url", "url": "https://example.invalid", "name": "x"}],
    "inference_geo": "us",
    "thread": {"type": "create"},
}


@pytest.mark.parametrize("field", [*ADDING, *CHANGING])
async def test_fields_for_anthropics_servers(field):
    value = (ADDING | CHANGING)[field]
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        lenient = api.with_options(default_headers={"X-Miner-Unsupported": "skip"})
        strict = api.with_options(default_headers={"X-Miner-Unsupported": "refuse"})
        assert await create(lenient, **{field: value}) == [field]
        assert await create(api, **{field: None}) == []
        with pytest.raises(anthropic.BadRequestError, match=field):
            await create(strict, **{field: value})
        if field in ADDING:
            assert await create(api, **{field: value}) == [field]
        else:
            with pytest.raises(anthropic.BadRequestError, match=field):
                await create(api, **{field: value})


@pytest.mark.parametrize("thread", [{"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}])
async def test_a_thread_is_negotiated(thread):
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        with pytest.raises(anthropic.BadRequestError) as caught:
            await create(api, thread=thread)
        assert caught.value.body["error"]["details"] == {
            "error_code": "thread_unsupported_request", "unsupported": ["thread"],
        }  # fmt: skip
        assert engine.generations == []
        lenient = api.with_options(default_headers={"X-Miner-Unsupported": "skip"})
        if thread["type"] == "create":
            assert await create(lenient, thread=thread) == ["thread"]
        else:  # its messages are the last ones of a conversation that nobody here knows
            with pytest.raises(anthropic.BadRequestError, match="thread"):
                await create(lenient, thread=thread)


HISTORY = [
    {"role": "user", "content": "What is new?"},
    {"role": "assistant", "content": [
        {"type": "text", "text": "I search."},
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "news"}},
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [
            {"type": "web_search_result", "title": "News", "url": "https://example.invalid/n", "page_age": None,
             "encrypted_content": "EqgfCioIARgBIiQ3YTAw"}]},
        {"type": "text", "text": "Nothing new.", "citations": [{"type": "web_search_result_location"}]},
        {"type": "mcp_tool_use", "id": "mcptoolu_1", "name": "echo", "server_name": "x", "input": {}},
        {"type": "mcp_tool_result", "tool_use_id": "mcptoolu_1", "is_error": False,
         "content": [{"type": "text", "text": "Hi"}]},
        {"type": "tool_use", "id": "toolu_1", "name": "ToolSearch", "input": {"q": "x"}},
    ]},
    {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": [
            {"type": "tool_reference", "tool_name": "weather"}]},
        {"type": "search_result", "title": "T", "source": "S", "content": [{"type": "text", "text": "C"}]},
        {"type": "document", "title": "D", "source": {"type": "content", "content": [{"type": "text", "text": "E"}]}},
    ]},
    {"role": "assistant", "content": [{"type": "compaction", "content": "We spoke of news."}]},
    {"role": "system", "content": "Tokens left: 5"},
    {"role": "user", "content": "And?"},
]  # fmt: skip


async def test_blocks_of_anthropics_servers_in_the_history_are_what_a_model_can_read():
    async with StubServer() as engine, serving(vllm(engine)) as served:
        async with post(served, {"model": "m", "max_tokens": 9, "messages": HISTORY}, "/v1/messages") as response:
            assert response.status == 200, await response.text()
            ignored = response.headers.get("x-miner-ignored-params")
        sent = engine.bodies[-1]["messages"]
    assert ignored is None
    assert [message["role"] for message in sent] == [
        "user", "assistant", "tool", "assistant", "tool", "assistant", "tool", "user", "assistant", "system", "user",
    ]  # fmt: skip
    assert [call["function"] for call in sent[1]["tool_calls"]] == [
        {"name": "web_search", "arguments": '{"query":"news"}'}
    ]
    assert sent[2] == {"role": "tool", "tool_call_id": "srvtoolu_1", "content": "News\nhttps://example.invalid/n"}
    assert (sent[3]["content"], sent[3]["tool_calls"][0]["id"]) == ("Nothing new.", "mcptoolu_1")
    assert sent[4]["content"] == "Hi"
    assert sent[5]["tool_calls"][0]["id"] == "toolu_1"
    assert sent[6]["content"] == "The tool weather is available."
    assert sent[7]["content"] == "T\nS\nC\nD\nE"
    assert sent[8]["content"] == "We spoke of news."
    assert sent[9]["content"] == "Tokens left: 5"


@pytest.mark.parametrize(
    ("role", "block", "named", "changes"),
    [
        ("user", {"type": "video", "source": {"type": "url", "url": "x"}}, "video", True),
        ("user", {"type": "container_upload", "file_id": "file_1"}, "container_upload", True),
        ("user", {"type": "image", "source": {"type": "file", "file_id": "file_1"}}, "image", True),
        ("user", {"type": "document", "source": {"type": "file", "file_id": "file_1"}}, "document", True),
        ("user", {"type": "document", "source": {"type": "url", "url": "https://example.invalid/a.pdf"}}, "document",
         True),
        ("system", {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "x"}}, "tool_addition", False),
        ("assistant", {"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}}, "fallback", False),
        ("assistant", {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}, "server_tool_use",
         False),
        ("assistant", {"type": "redacted_thinking", "data": "x"}, "redacted_thinking", False),
    ],
)  # fmt: skip
async def test_other_blocks_by_the_policy(role, block, named, changes):
    turn = {"role": role, "content": [{"type": "text", "text": "a"}, block]}
    body = {"model": "m", "max_tokens": 9, "messages": [*USER, turn, *USER]}
    async with serving(Parrot(config())) as served:
        for policy, refused in (("refuse", True), ("default", changes), ("skip", False)):
            headers = {"X-Miner-Unsupported": policy}
            async with post(served, body, "/v1/messages", headers=headers) as response:
                text = await response.text()
                assert response.status == (400 if refused else 200), text
                listed = response.headers.get("x-miner-ignored-params")
            assert named in (text if refused else listed)
            if refused:
                assert "messages[1].content[1]" in text


async def test_count_tokens_takes_all_that_messages_take():
    async with StubServer() as engine, serving(vllm(engine)) as served:
        body = {"model": "m", "messages": HISTORY, "tools": [SERVER_TOOLS[0], WEATHER], **ADDING}
        for query in ("", "?beta=true"):
            headers = {"anthropic-beta": "a-2027-01-01,b", "anthropic-version": "2023-06-01"}
            async with post(served, body, "/v1/messages/count_tokens" + query, headers=headers) as response:
                assert response.status == 200, await response.text()
                assert (await response.json())["input_tokens"] > 0
        body["max_tokens"] = 9  # changes no count
        async with post(served, body, "/v1/messages/count_tokens") as response:
            assert response.status == 200, await response.text()
            assert "max_tokens" in response.headers["x-miner-ignored-params"]
        async with post(served, {**body, "thread": {"type": "create"}}, "/v1/messages/count_tokens") as response:
            assert response.status == 400
            assert (await response.json())["request_id"] == response.headers["request-id"]


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        (b']}],"max_tokens":9, oops', "not valid JSON"),
        (b"", "not valid JSON"),
        (b']}],"max_tokens":9,"metadata":{"user_id":"\\ud800"}}', "half of a surrogate pair"),
        (b'\xff"}]}]}', "not valid JSON"),
        (b',{"type":"of_2027","content":' + b"[" * 3000 + b"]" * 3000 + b'}]}],"max_tokens":9}', "nested"),
        (b']}],"max_tokens":9,"messages":7}', "messages"),
    ],
    ids=["malformed", "cut", "surrogate", "encoding", "deep", "twice"],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_a_body_that_is_wrong_behind_an_unknown_block_is_the_clients_error(path, rest, said):
    body = b'{"model":"m","messages":[{"role":"user","content":[{"type":"of_2027"}' + rest
    async with serving(Parrot(config())) as served, post(served, body, path) as response:
        error = (await response.json())["error"]
    assert response.status == 400, error
    assert said in error["message"]
