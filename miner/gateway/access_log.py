"""Access log: one line for each request, on standard error, as text or JSON. Keys never, prompts only when asked."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from miner.core._typing import override
from miner.gateway.errors import failure_of
from miner.gateway.exchange import Exchange
from miner.gateway.log_writer import LogWriter
from miner.gateway.rates import told_usage
from miner.gateway.stages import Stage

if TYPE_CHECKING:
    from miner.core.wire import LLMChunk
    from miner.gateway.gateway import Gateway

__all__ = ["AccessLog", "PromptLog"]

_LONGEST_NAME = 200
_LONGEST_TEXT = 64 * 1024
"""Characters of a prompt or a reply in the log."""
_PLAIN = re.compile(r"[\w.:/@{}+*,\[\]-]+", re.ASCII)


class AccessLog(Stage):
    """Writes the lines; a log that cannot be written breaks no request."""

    def __init__(self, form: Literal["text", "json"], *, prompts: bool = False, fd: int = 2) -> None:
        self._render = _as_json if form == "json" else _as_text
        self._prompts = prompts
        self._writer = LogWriter(fd)

    @override
    async def stop(self, gateway: Gateway) -> None:
        await self._writer.close()

    @override
    def leave(self, exchange: Exchange) -> None:
        told = _facts(exchange)
        if self._prompts:
            told.update(_texts(exchange))
        self._writer.write(self._render(told))


class PromptLog(AccessLog):
    """The same with prompts and replies. Of its own, so that others pay nothing for each batch."""

    def __init__(self, form: Literal["text", "json"], *, fd: int = 2) -> None:
        super().__init__(form, prompts=True, fd=fd)

    @override
    def batch(self, exchange: Exchange, batch: list[LLMChunk]) -> None:
        kept = exchange.notes.setdefault("reply", [])
        if isinstance(kept, list) and len(kept) < _LONGEST_TEXT:
            kept.extend(chunk.content for chunk in batch if chunk.content)


def _facts(exchange: Exchange) -> dict[str, Any]:
    """What is known of a request, in the order of the line. None stands for what there is not."""
    now = asyncio.get_running_loop().time()
    usage, call, began = told_usage(exchange), exchange.call, exchange.began
    route = exchange.route
    unmatched = route.method == "*"
    first, waited = exchange.first_token_at, exchange.notes.get("waited")
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "address": exchange.peer,
        "key": exchange.caller.name,
        "method": exchange.request.method[:20] if unmatched else route.method,
        "route": exchange.request.path[:_LONGEST_NAME] if unmatched else route.path,
        "status": exchange.status or 200,
        "model": call.model[:_LONGEST_NAME] if call is not None and call.model else None,
        "stream": exchange.streamed or None,
        "tokens_in": usage.prompt_tokens if usage is not None else None,
        "tokens_out": usage.completion_tokens if usage is not None else (exchange.chunks or None),
        "waited": _rounded(waited) if isinstance(waited, float) else None,
        "ttft": _rounded(first - began) if first is not None else None,
        "seconds": _rounded(now - began),
        "cancelled": exchange.hung_up or None,
        "error": failure_of(exchange.error).code if exchange.error is not None else None,
        "id": exchange.id,
    }


def _rounded(seconds: float) -> float:
    return round(seconds, 6)


def _texts(exchange: Exchange) -> dict[str, Any]:
    """The prompt and, of a stream, the reply."""
    told: dict[str, Any] = {}
    call = exchange.call
    if call is not None and call.arguments:
        asked = call.arguments[0].get("messages", call.arguments[0].get("prompt"))
        told["prompt"] = asked if isinstance(asked, str) else msgspec.json.encode(asked).decode()
        told["prompt"] = told["prompt"][:_LONGEST_TEXT]
    kept = exchange.notes.get("reply")
    if isinstance(kept, list):
        told["reply"] = "".join(kept)[:_LONGEST_TEXT]
    return told


def _as_json(told: dict[str, Any]) -> bytes:
    return json.dumps({name: value for name, value in told.items() if value is not None}).encode() + b"\n"


def _as_text(told: dict[str, Any]) -> bytes:
    """`time address key method route status`, then `name=value`. What is no plain word is quoted as in JSON."""
    words = [_word(told[name]) for name in ("time", "address", "key", "method", "route", "status")]
    words += [
        name if value is True else f"{name}={_word(value)}"
        for name, value in list(told.items())[6:]
        if value is not None
    ]
    return " ".join(words).encode() + b"\n"


def _word(value: Any) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
