"""Responses of a server with known delays, for what `miner bench` makes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.servers.faults import Behaviour
from tests.servers.http import Request, ResponseWriter
from tests.servers.payloads import DONE, delta, frame, openai_chunk, usage_chunk

FIRST, GAP = 0.3, 0.04
"""Seconds to the first token, and between two."""


def prompt_of(request: Request) -> str:
    """All that the request's messages or prompt say."""
    body = request.json
    return "\n".join(str(each["content"]) for each in body["messages"]) if "messages" in body else body["prompt"]


def timed(
    *, first: float = FIRST, gap: float = GAP, counted: bool = True, per_chunk: int = 1, reasoning: int = 0,
    early_role: bool = False, stop_at: int | None = None, cut_at: int | None = None, hang_at: int | None = None,
    cached: int | None = None,
) -> Behaviour:  # fmt: skip
    """A stream of as many tokens as the request wants, its prompt counted by words and 10 for a template.

    Args:
        first: seconds to the first token; `gap`: between two chunks.
        counted: whether usage is sent.
        per_chunk: tokens in each chunk.
        reasoning: chunks that are reasoning, before the content.
        early_role: the opening chunk, with the role, is sent at once, not with the first token.
        cached: prompt tokens that are said to come from the prefix cache.
        stop_at: the model ends its response after so many chunks.
        cut_at: the connection breaks after so many; `hang_at`: nothing more comes.
    """

    async def run(writer: ResponseWriter) -> None:
        request = writer.request
        chat = "messages" in request.json
        limit = request.json.get("max_tokens") or request.json["max_completion_tokens"]
        chunks = min(-(-limit // per_chunk), stop_at or limit)
        await writer.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        role = frame(request, delta(role="assistant", content=""))
        if chat and early_role:
            await writer.piece(role)
        await asyncio.sleep(first)
        if chat and not early_role:
            await writer.piece(role)
        for number in range(chunks):
            if number:
                await asyncio.sleep(gap)
            if number == cut_at:
                writer.drop()
                return
            if number == hang_at:
                await writer.hold()
            end = None if number < chunks - 1 else ("length" if stop_at is None else "stop")
            text = {"reasoning" if number < reasoning else "content": "word " * per_chunk}
            choice = {"index": 0, "text": "word ", "finish_reason": end}
            event = delta(finish_reason=end, **text) if chat else openai_chunk([choice])
            await writer.piece(frame(request, event))
        if counted:
            tokens = min(limit, chunks * per_chunk)
            event = usage_chunk(len(prompt_of(request).split()) + 10, tokens)
            if cached is not None:
                event["usage"]["prompt_tokens_details"] = {"cached_tokens": cached}
            await writer.piece(frame(request, event))
        await writer.piece(DONE)
        await writer.end()

    return Behaviour("timed", run)


def every(count: int, behaviour: Behaviour, otherwise: Behaviour) -> Callable[[dict[str, Any]], Behaviour]:
    """Of the requests for more than one token every `count`th gets one behaviour, the others get the other."""
    seen = 0

    def reply(body: dict[str, Any]) -> Behaviour:
        nonlocal seen
        if body["max_tokens"] == 1:
            return otherwise
        seen += 1
        return behaviour if seen % count == 0 else otherwise

    return reply
