"""The tool runner of the official `anthropic` package: it asks for a thread, and goes on without one."""

from __future__ import annotations

import pytest
from anthropic import beta_async_tool

from tests.gateway.apis.anthropic.client import CALLS, USER, client
from tests.gateway.serving import serving, vllm
from tests.servers.openai_stub import StubServer


@beta_async_tool
async def weather(city: str) -> str:
    """The weather of a city."""
    return f"Sun in {city}."


@pytest.mark.parametrize("policy", ["default", "skip"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_loop_runs_to_its_end(policy, stream):
    def reply(body):
        results = [message["content"] for message in body["messages"] if message["role"] == "tool"]
        return " ".join(results) if results else CALLS

    async with (
        StubServer(reply=reply) as engine,
        serving(vllm(engine), serve_unsupported=policy) as served,
        client(served) as api,
    ):
        runner = api.beta.messages.tool_runner(
            model="m", max_tokens=99, messages=USER, tools=[weather], stream=stream, thinking={"type": "adaptive"},
            output_config={"effort": "high"},
        )  # fmt: skip
        last = await runner.until_done()
        sent = engine.bodies
    assert last.content[0].text == "Sun in Rome. Sun in Oslo."
    assert [len(body["messages"]) for body in sent] == [1, 4]
    assert [message["role"] for message in sent[1]["messages"]] == ["user", "assistant", "tool", "tool"]
