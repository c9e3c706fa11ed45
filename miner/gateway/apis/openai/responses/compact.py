"""OpenAI's `/v1/responses/compact`: the model summarizes a conversation, and an item stands for it from then on."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from miner.core._typing import override
from miner.core.wire import LLMResponse, TokenUsage
from miner.gateway.apis.openai.responses.dialect import OpenAIResponses
from miner.gateway.apis.openai.responses.input import sealed_summary, stored_items
from miner.gateway.apis.openai.responses.response import usage_object
from miner.gateway.context import RequestContext
from miner.gateway.dialect import Call, Head
from miner.gateway.generation import send_reply

_PROMPT = (
    "Summarize this conversation for whoever continues it: what the user wants, decisions and constraints, what was "
    "done with which results, names, paths and figures that are needed, and what remains to be done. Write only the "
    "summary."
)
_SHORTEST, _LONGEST = 128, 2048
"""Tokens of a summary at most: half of what it stands for, within these."""
_CHARACTERS_PER_TOKEN = 4


class _Compaction(OpenAIResponses):
    """The dialect of a compaction: its reply holds the user's messages and the item."""

    @override
    def response_body(self, call: Call, head: Head, responses: list[LLMResponse]) -> bytes:
        """A `response.compaction`."""
        request, response = call.options.request, responses[0]
        kept = [item for item in stored_items(request.input, head.id) if item.get("role") == "user"]
        compaction = {
            "id": f"cmp_{head.id}",
            "type": "compaction",
            "encrypted_content": sealed_summary(response.content),
        }
        body: dict[str, Any] = {
            "id": f"resp_{head.id}",
            "object": "response.compaction",
            "created_at": head.created,
            "output": [*kept, compaction],
            "usage": usage_object(response.usage or TokenUsage()),
        }
        return msgspec.json.encode(body)


COMPACTION = _Compaction()


async def summarize(context: RequestContext, call: Call) -> web.StreamResponse:
    """Let the model summarize the conversation of a call that is complete."""
    arguments = call.arguments[0]
    for name in ("tools", "tool_choice", "parallel_tool_calls", "response_format", "logprobs"):
        arguments.pop(name, None)
    characters = sum(len(str(message.get("content") or "")) for message in arguments["messages"])
    arguments["max_tokens"] = min(max(_SHORTEST, characters // _CHARACTERS_PER_TOKEN // 2), _LONGEST)
    arguments["messages"].append({"role": "user", "content": _PROMPT})
    call.stream = False
    return await send_reply(context, COMPACTION, call)
