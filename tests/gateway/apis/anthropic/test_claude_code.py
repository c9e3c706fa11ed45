"""What Claude Code sends: requests of version 2.1.197 with their texts and tools shortened (tests/data)."""

from __future__ import annotations

import json

import pytest

from tests.gateway.serving import post, serving, vllm
from tests.paths import DATA
from tests.servers.openai_stub import StubServer

REQUESTS = {item["what"]: item for item in json.loads((DATA / "claude-code.json").read_text())}
ALWAYS = {"cache_control", "x-anthropic-billing-header"}


async def send(what):
    request = REQUESTS[what]
    async with StubServer(models=["big"]) as engine, serving(vllm(engine)) as served:
        headers = {"anthropic-beta": request["anthropic-beta"], "anthropic-version": "2023-06-01"}
        async with post(served, request["body"], request["path"], headers=headers) as response:
            ignored = set(filter(None, response.headers.get("x-miner-ignored-params", "").split(", ")))
            return response.status, await response.text(), ignored, engine.bodies[-1] if engine.bodies else None


async def test_tools_references_reasoning_and_system_messages_in_the_middle():
    status, text, ignored, sent = await send("tools and tool references")
    assert status == 200, text
    assert ignored == {*ALWAYS, "context_management", "tools.defer_loading"}
    assert [message["role"] for message in sent["messages"]] == [
        "system", "user", "system", "assistant", "tool", "user", "assistant", "tool", "user",
    ]  # fmt: skip
    assert sent["messages"][3]["reasoning"] == "text"
    assert sent["messages"][4]["content"].startswith("The tool CronCreate is available.")
    assert sent["reasoning_effort"] == "max"


async def test_its_web_search_goes_on_without_the_tool():
    status, text, ignored, sent = await send("web search")
    assert status == 200, text
    assert ignored == {"x-anthropic-billing-header", "tools.web_search_20250305"}
    assert "tools" not in sent


@pytest.mark.parametrize(
    ("what", "place"),
    [
        ("a PDF that was read", "messages[9].content[1].document"),
        ("an image that was read", "messages[3].content[0].tool_result.content[0].image"),
    ],
)
async def test_an_error_names_the_media_so_that_it_goes_on_without(what, place):
    """It searches the message for the place, and sends the conversation again with a note instead."""
    status, text, _, _ = await send(what)
    assert status == 400
    assert json.loads(text)["error"]["message"].startswith(place + ": ")
