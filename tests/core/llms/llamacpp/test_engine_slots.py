"""Conversations on the real engine: what is read again, by the engine's own counters."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager

import pytest

from miner.config.config import MinerConfig
from miner.core.llms import get_backend

pytestmark = pytest.mark.engine

SYSTEM = "You are an agent that knows everything about lighthouses and ships. " * 30
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "Look around", "parameters": {"type": "object", "properties": {}}},
}


def conversation(name):
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"I am captain {name}. " + f"Ship {name} sails to harbour {name}. " * 12},
    ]


@asynccontextmanager
async def llamacpp(**settings):
    config = MinerConfig(**{"llamacpp_threads": 1, "llamacpp_ctx_size": 1024, "llamacpp_parallel": 1, **settings})
    async with get_backend("llamacpp", config) as service:
        yield service


async def tokens_read(service):
    """Prompt tokens that the engine has computed so far."""
    (server,) = service._engines._servers.values()
    reply = await server.http.request("GET", "/metrics", total=10, root=True)
    found = re.search(rb"^llamacpp:prompt_tokens_total (\d+)", reply.body, re.MULTILINE)
    return int(found[1])


async def go_on(service, messages):
    """One turn: usage, and the tokens that the engine read for it."""
    before = await tokens_read(service)
    reply = await service.chat_completion(messages, tools=[TOOL], temperature=0, max_tokens=2)
    messages += [{"role": "assistant", "content": reply.content}, {"role": "user", "content": "Go on, captain."}]
    return reply.usage, await tokens_read(service) - before


async def test_conversations_that_take_turns_on_one_slot_are_not_read_again():
    async with llamacpp() as service:
        await service.load_model(await service._sole_model())
        both = {name: conversation(name) for name in "AB"}
        last = {}
        for turn in range(3):
            for name, messages in both.items():
                usage, read = await go_on(service, messages)
                if turn:
                    assert usage.cached_tokens >= 0.99 * last[name].total_tokens
                    # One token more for the step that restores the conversation.
                    assert read <= usage.prompt_tokens - usage.cached_tokens + 1
                elif name == "B":  # the same system prompt and tools
                    assert usage.cached_tokens > 400
                last[name] = usage


async def test_without_memory_for_prompts_the_common_beginning_is_still_used():
    async with llamacpp(llamacpp_cache_ram=0) as service:
        await service.load_model(await service._sole_model())
        both = [conversation(name) for name in "AB"]
        for messages in (*both, both[0]):
            usage, _ = await go_on(service, messages)
        assert 400 < usage.cached_tokens < 0.9 * usage.prompt_tokens
