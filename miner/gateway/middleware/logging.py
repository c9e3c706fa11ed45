"""Access log: one line for each request. Keys never, prompts only when asked."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from miner.core._typing import override
from miner.gateway.context import RequestContext
from miner.gateway.errors import failure_of
from miner.gateway.middleware.base import Middleware
from miner.gateway.middleware.buckets import told_usage
from miner.gateway.server.log_format import word

if TYPE_CHECKING:
    from miner.core.wire import LLMChunk

__all__ = ["AccessLog", "PromptLog"]

logger = logging.getLogger("miner.access")

_LONGEST_NAME = 200
_LONGEST_TEXT = 64 * 1024
"""Characters of a prompt or a reply in the log."""


class AccessLog(Middleware):
    """Logs the lines, as infos of the logger `miner.access`.

    Args:
        prompts: with the prompts.
    """

    def __init__(self, *, prompts: bool = False) -> None:
        self._prompts = prompts

    @override
    def leave(self, context: RequestContext) -> None:
        if not logger.isEnabledFor(logging.INFO):
            return
        head, fields = _facts(context)
        if self._prompts:
            fields.update(_texts(context))
        message = " ".join(word(value) for value in head.values())
        # Not `logger.info`: that looks for the line of code that called it, for each request.
        record = logger.makeRecord(logger.name, logging.INFO, __file__, 0, message, (), None)
        record.head, record.fields = head, fields
        logger.handle(record)


class PromptLog(AccessLog):
    """The same with prompts and replies. Of its own, so that others pay nothing for each batch."""

    def __init__(self) -> None:
        super().__init__(prompts=True)

    @override
    def batch(self, context: RequestContext, batch: list[LLMChunk]) -> None:
        kept = context.notes.setdefault("reply", [])
        if isinstance(kept, list) and len(kept) < _LONGEST_TEXT:
            kept.extend(chunk.content for chunk in batch if chunk.content)


def _facts(context: RequestContext) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is known of a request: what every line has, then the rest. None stands for what there is not."""
    now = asyncio.get_running_loop().time()
    usage, call, began = told_usage(context), context.call, context.began
    route = context.route
    unmatched = route.method == "*"
    first, waited = context.first_token_at, context.notes.get("waited")
    head = {
        "address": context.peer,
        "key": context.caller.name,
        "method": context.request.method[:20] if unmatched else route.method,
        "route": context.request.path[:_LONGEST_NAME] if unmatched else route.path,
        "status": context.status or 200,
    }
    fields = {
        "model": call.model[:_LONGEST_NAME] if call is not None and call.model else None,
        "stream": context.streamed or None,
        "tokens_in": usage.prompt_tokens if usage is not None else None,
        "tokens_out": usage.completion_tokens if usage is not None else (context.chunks or None),
        "waited": _rounded(waited) if isinstance(waited, float) else None,
        "ttft": _rounded(first - began) if first is not None else None,
        "seconds": _rounded(now - began),
        "cancelled": context.hung_up or None,
        "error": failure_of(context.error).code if context.error is not None else None,
        "id": context.id,
    }
    return head, fields


def _rounded(seconds: float) -> float:
    return round(seconds, 6)


def _texts(context: RequestContext) -> dict[str, Any]:
    """The prompt and, of a stream, the reply."""
    told: dict[str, Any] = {}
    call = context.call
    if call is not None and call.arguments:
        asked = call.arguments[0].get("messages", call.arguments[0].get("prompt"))
        told["prompt"] = asked if isinstance(asked, str) else msgspec.json.encode(asked).decode()
        told["prompt"] = told["prompt"][:_LONGEST_TEXT]
    kept = context.notes.get("reply")
    if isinstance(kept, list):
        told["reply"] = "".join(kept)[:_LONGEST_TEXT]
    return told
