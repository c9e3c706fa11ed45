"""Messages as Anthropic's server-sent events: each type of content is a block that starts, grows and stops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from miner.core.wire import FinishReason, LLMChunk, LLMResponse, TokenUsage, ToolCall
from miner.gateway.apis.anthropic.errors import error_event
from miner.gateway.apis.anthropic.response import (
    context_edits,
    delta_usage,
    message_object,
    stop_fields,
    text_block,
    thinking_block,
    tool_use_block,
    usage_object,
)
from miner.gateway.apis.anthropic.signature import carrying_signature, signature_of
from miner.gateway.dialect import Head
from miner.gateway.errors import Failure

PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_encode = msgspec.json.encode
_DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":'


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), _encode({"type": kind, **fields}))


class MessageStream:
    """Writes one streamed message.

    Args:
        estimate: the prompt's tokens, where the engine has not told them by the first token.
        shows_thinking: whether the client wants to read the reasoning, or its signature alone.
        edits: whether the request has `context_management`.
    """

    def __init__(self, head: Head, estimate: Callable[[], int], *, shows_thinking: bool, edits: bool) -> None:
        self._head = head
        self._estimate = estimate
        self._shows_thinking = shows_thinking
        self._edits = edits
        self._started = False
        self._blocks = 0
        """Blocks that were started."""
        self._open: str | None = None
        """Type of the block that is open."""
        self._thinking: list[str] = []
        """The text of the open block of reasoning."""
        self._tools: dict[int, int] = {}
        """Blocks of the tool calls, by their index."""
        self._before = b""
        """The beginning of a delta event of the open block."""
        self._prompt: TokenUsage | None = None
        self._reason: FinishReason | None = None
        self._exhausted = False
        self._sequence: str | None = None
        self._usage: TokenUsage | None = None

    def batch(self, batch: list[LLMChunk], index: int) -> bytes:
        """The events of a batch."""
        out: list[bytes] = []
        if not self._started:
            self._prompt = next((chunk.prompt_usage for chunk in batch if chunk.prompt_usage is not None), self._prompt)
        for chunk in batch:
            if chunk.reasoning:
                if self._open != "thinking":
                    self._open_block("thinking", thinking_block("", ""), out)
                    self._before = _DELTA % (self._blocks - 1) + b'{"type":"thinking_delta","thinking":'
                self._thinking.append(chunk.reasoning)
                if self._shows_thinking:
                    out += (self._before, _encode(chunk.reasoning), b"}}\n\n")
            if chunk.content:
                if self._open != "text":
                    self._open_block("text", text_block(""), out)
                    self._before = _DELTA % (self._blocks - 1) + b'{"type":"text_delta","text":'
                out += (self._before, _encode(chunk.content), b"}}\n\n")
            for call in chunk.tool_calls or ():
                self._call(call, out)
            if chunk.finish_reason is not None:
                self._reason = chunk.finish_reason
                self._sequence = chunk.stop_sequence
            if chunk.context_exhausted:
                self._exhausted = True
            if chunk.usage is not None:
                self._usage = chunk.usage
        return b"".join(out)

    def _start(self, out: list[bytes]) -> None:
        self._started = True
        usage = self._usage or self._prompt
        if usage is None:
            tokens = self._estimate()
            usage = TokenUsage(tokens, 0, tokens)
        usage = TokenUsage(usage.prompt_tokens, 0, usage.prompt_tokens, usage.cached_tokens)
        message = message_object(self._head, [], usage_object(usage), edits=self._edits)
        out.append(_event("message_start", message=message))

    def _open_block(self, kind: str, block: dict[str, Any], out: list[bytes]) -> None:
        if not self._started:
            self._start(out)
        self._close_block(out)
        self._open = kind
        out.append(_event("content_block_start", index=self._blocks, content_block=block))
        self._blocks += 1

    def _close_block(self, out: list[bytes]) -> None:
        if self._open is None:
            return
        if self._open == "thinking":
            sign = signature_of if self._shows_thinking else carrying_signature
            signature = {"type": "signature_delta", "signature": sign("".join(self._thinking))}
            out.append(_event("content_block_delta", index=self._blocks - 1, delta=signature))
            self._thinking.clear()
        self._open = None
        out.append(_event("content_block_stop", index=self._blocks - 1))

    def _call(self, delta: ToolCall, out: list[bytes]) -> None:
        place = delta.get("index", 0)
        function = delta.get("function") or {}
        if place not in self._tools:
            self._tools[place] = self._blocks
            self._open_block("tool_use", tool_use_block(delta.get("id"), function.get("name") or "", {}), out)
        arguments = function.get("arguments")
        if arguments:
            json_delta = {"type": "input_json_delta", "partial_json": arguments}
            out.append(_event("content_block_delta", index=self._tools[place], delta=json_delta))

    def end(self, responses: list[LLMResponse]) -> bytes:
        """The stop reason, usage, and `message_stop`."""
        out: list[bytes] = []
        if not self._started:
            self._start(out)
        self._close_block(out)
        stopped = stop_fields(self._reason, exhausted=self._exhausted, sequence=self._sequence)
        fields = {
            "delta": {**stopped, "container": None},
            "usage": delta_usage(self._usage or self._prompt),
            "context_management": context_edits(self._edits),
        }
        out.append(_event("message_delta", **fields))
        out.append(_event("message_stop"))
        return b"".join(out)

    def error(self, failure: Failure) -> bytes:
        """An error event; no `message_stop` follows."""
        return error_event(failure)
