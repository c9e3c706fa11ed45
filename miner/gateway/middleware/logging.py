"""Access log: one line for each request. Never keys; prompts only where they are enabled."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec

from miner.core._typing import override
from miner.core.wire import LLMChunk
from miner.gateway.context import RequestContext
from miner.gateway.errors import failure_of
from miner.gateway.middleware.base import Middleware
from miner.gateway.route_path import shown_path
from miner.gateway.server.log_format import word

logger = logging.getLogger("miner.access")

_PROBES = frozenset({"/livez", "/readyz"})
"""Asked every few seconds by what watches the server."""
_MAX_NAME = 200
_MAX_TEXT = 64 * 1024
"""Characters of a prompt or a reply in the log."""


class AccessLog(Middleware):
    """Logs the lines to the logger `miner.access`, at level info; those of successful probes at level debug."""

    @override
    def on_finish(self, context: RequestContext) -> None:
        level = logging.DEBUG if context.route.path in _PROBES and (context.status or 200) < 400 else logging.INFO
        if not logger.isEnabledFor(level):
            return
        head, fields = _request_line(context), self._fields(context)
        message = " ".join(word(value) for value in head.values())
        # Not `logger.info`: that looks for the line of code that called it, for each request.
        record = logger.makeRecord(logger.name, level, __file__, 0, message, (), None)
        record.head, record.fields = head, fields
        logger.handle(record)

    def _fields(self, context: RequestContext) -> dict[str, Any]:
        """Fields after the request line, by name; None: left out."""
        now, started_at, first = asyncio.get_running_loop().time(), context.started_at, context.first_token_at
        usage, call = context.reported_usage, context.call
        call_model = call.model if call is not None else None
        return {
            "model": call.model[:_MAX_NAME] if call is not None and call.model else None,
            "served": context.served if context.served is not None and context.served != call_model else None,
            "stream": context.streamed or None,
            "tokens_in": usage.prompt_tokens if usage is not None else None,
            "tokens_out": usage.completion_tokens if usage is not None else (context.chunks or None),
            "cost": None if context.cost is None else float(f"{context.cost:.6g}"),
            "queued": _rounded(context.queue_seconds),
            "ttft": _rounded(first - started_at) if first is not None else None,
            "seconds": _rounded(now - started_at),
            "cancelled": context.disconnected or None,
            "error": failure_of(context.error).code if context.error is not None else None,
            "id": context.id,
        }


class PromptLog(AccessLog):
    """AccessLog with prompts and replies."""

    @override
    def on_chunks(self, context: RequestContext, chunks: list[LLMChunk]) -> None:
        if len(context.reply_text) < _MAX_TEXT:
            context.reply_text.extend(chunk.content for chunk in chunks if chunk.content)

    @override
    def _fields(self, context: RequestContext) -> dict[str, Any]:
        fields, call = super()._fields(context), context.call
        if call is not None and call.arguments:
            prompt = call.arguments[0].get("messages", call.arguments[0].get("prompt"))
            text = prompt if isinstance(prompt, str) else msgspec.json.encode(prompt).decode()
            fields["prompt"] = text[:_MAX_TEXT]
        if context.first_token_at is not None:
            fields["reply"] = "".join(context.reply_text)[:_MAX_TEXT]
        return fields


def _request_line(context: RequestContext) -> dict[str, Any]:
    """The beginning of every line."""
    route = context.route
    return {
        "address": context.peer,
        "key": context.caller.name,
        "method": context.request.method[:20] if route.is_fallback else route.method,
        "route": context.request.path[:_MAX_NAME] if route.is_fallback else shown_path(route.path),
        "status": context.status or 200,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
