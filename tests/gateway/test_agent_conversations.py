"""What a coding agent sends again at each turn is not read again, by the engine's own counters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from miner.core.llms.llm_llamacpp import LlamaCppService
from tests.gateway.serving import config, post, serving

pytestmark = pytest.mark.engine

TEMPLATES = Path(__file__).parents[1] / "data" / "templates"
RULES = "Read a file before you change it, and keep its style. " * 25
TOOLS = [
    {
        "name": f"{verb}_file",
        "description": f"Use this to {verb} a file.",
        "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    }
    for verb in ("read", "write", "edit")
]


def line(number):
    return {
        "type": "text",
        "text": f"x-anthropic-billing-header: cc_version=2.1.9; cc_entrypoint=cli; cch={number:05x};",
    }


def served_model(template, **settings):
    chosen = None if template is None else str(TEMPLATES / template)
    return LlamaCppService(
        config(llamacpp_ctx_size=2048, llamacpp_parallel=1, llamacpp_chat_template=chosen, **settings)
    )


async def message(served, number, messages, *, directory="a", stream=False):
    """One turn through Anthropic's API: its usage, and its text."""
    system = [line(number), {"type": "text", "text": f"You are an agent. {RULES}\nDirectory: {directory}"}]
    body = {"model": "demo", "max_tokens": 4, "temperature": 0, "system": system, "tools": TOOLS, "messages": messages,
            "stream": stream}  # fmt: skip
    async with post(served, body, "/v1/messages") as reply:
        assert reply.status == 200, await reply.text()
        assert "x-anthropic-billing-header" in reply.headers["x-miner-ignored-params"]
        if not stream:
            whole = await reply.json()
            return whole["usage"], "".join(block.get("text", "") for block in whole["content"])
        events = [
            json.loads(each.removeprefix("data: ")) for each in (await reply.text()).split("\n") if "data: {" in each
        ]
    usage = {}
    for event in events:
        usage |= {name: value for name, value in (event.get("usage") or {}).items() if value is not None}
    return usage, "".join(event.get("delta", {}).get("text", "") for event in events)


def next_turn(messages, number, text):
    """The reply with a call, and the call's result."""
    call = {"type": "tool_use", "id": f"toolu_{number}", "name": "read_file", "input": {"path": f"part_{number}.py"}}
    said = [{"type": "text", "text": text}] if text.strip() else []
    result = {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": f"{number}: value = {number}"}
    return [*messages, {"role": "assistant", "content": [*said, call]}, {"role": "user", "content": [result]}]


@pytest.mark.parametrize("template", [None, "tools.jinja"])
async def test_turns_of_an_agent(template):
    """With the model's own template, which has no tools, and with one that has."""
    async with served_model(template) as backend, serving(backend) as served:
        messages = [{"role": "user", "content": "Fix the test."}]
        before = None
        for number in range(4):
            usage, text = await message(served, number, messages, stream=number % 2 == 1)
            read, cached = usage["input_tokens"], usage["cache_read_input_tokens"]
            if before is not None:
                # The last token of a reply is computed with the next prompt.
                assert cached >= 0.99 * before - 1, (number, usage)
                assert read < 80
            before = read + cached + usage["output_tokens"]
            messages = next_turn(messages, number, text)


async def test_counting_tokens_between_takes_no_slot_from_a_conversation():
    async with served_model(None) as backend, serving(backend) as served:
        messages = [{"role": "user", "content": "Fix the test."}]
        usage, text = await message(served, 0, messages)
        total = usage["input_tokens"] + usage["cache_read_input_tokens"] + usage["output_tokens"]
        body = {"model": "demo", "system": "Something else.", "messages": messages}
        async with post(served, body, "/v1/messages/count_tokens") as reply:
            assert (await reply.json())["input_tokens"] > 5
        usage, _ = await message(served, 1, next_turn(messages, 1, text))
        assert usage["cache_read_input_tokens"] >= 0.99 * total - 1
