"""Messages as Anthropic's events: each kind of content is a block that is opened, filled and closed."""

from __future__ import annotations

from typing import Any

import msgspec

from miner.core.wire import FinishReason, LLMChunk, LLMResponse, TokenUsage, ToolCall
from miner.gateway.apis.anthropic.errors import error_event, stop_reason, usage_object
from miner.gateway.apis.base import Head
from miner.gateway.errors import Failure

__all__ = ["PING", "MessageStream"]

PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_encode = msgspec.json.encode
_DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":'


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), _encode({"type": kind, **fields}))


class MessageStream:
    """Writes one streamed message."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._began = False
        self._blocks = 0
        """Blocks that were opened."""
        self._open: str | None = None
        """Kind of the block that is open."""
        self._tools: dict[int, int] = {}
        """Blocks of the calls, by the calls' index."""
        self._before = b""
        """The head of a piece of text or thought for the block that is open."""
        self._reason: FinishReason | None = None
        self._exhausted = False
        self._sequence: str | None = None
        self._usage: TokenUsage | None = None

    def batch(self, batch: list[LLMChunk], index: int) -> bytes:
        """The events of a batch."""
        out: list[bytes] = []
        if not self._began:
            self._start(out)
        for chunk in batch:
            if chunk.reasoning:
                if self._open != "thinking":
                    self._open_block("thinking", {"type": "thinking", "thinking": "", "signature": ""}, out)
                    self._before = _DELTA % (self._blocks - 1) + b'{"type":"thinking_delta","thinking":'
                out += (self._before, _encode(chunk.reasoning), b"}}\n\n")
            if chunk.content:
                if self._open != "text":
                    self._open_block("text", {"type": "text", "text": ""}, out)
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
        self._began = True
        message: dict[str, Any] = {
            "id": f"msg_{self._head.id}",
            "type": "message",
            "role": "assistant",
            "model": self._head.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            # Engines tell the counts at the end: `message_delta` has them all.
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        out.append(_event("message_start", message=message))

    def _open_block(self, kind: str, block: dict[str, Any], out: list[bytes]) -> None:
        self._close_block(out)
        self._open = kind
        out.append(_event("content_block_start", index=self._blocks, content_block=block))
        self._blocks += 1

    def _close_block(self, out: list[bytes]) -> None:
        if self._open is not None:
            self._open = None
            out.append(_event("content_block_stop", index=self._blocks - 1))

    def _call(self, piece: ToolCall, out: list[bytes]) -> None:
        place = piece.get("index", 0)
        function = piece.get("function") or {}
        if place not in self._tools:
            self._tools[place] = self._blocks
            named = {"id": piece.get("id") or "", "name": function.get("name") or ""}
            self._open_block("tool_use", {"type": "tool_use", **named, "input": {}}, out)
        arguments = function.get("arguments")
        if arguments:
            delta = {"type": "input_json_delta", "partial_json": arguments}
            out.append(_event("content_block_delta", index=self._tools[place], delta=delta))

    def end(self, responses: list[LLMResponse]) -> bytes:
        """Why it ended, the counts, and the end mark."""
        out: list[bytes] = []
        if not self._began:
            self._start(out)
        self._close_block(out)
        reason = stop_reason(self._reason, exhausted=self._exhausted, sequence=self._sequence)
        delta = {"stop_reason": reason, "stop_sequence": self._sequence}
        out.append(_event("message_delta", delta=delta, usage=usage_object(self._usage)))
        out.append(_event("message_stop"))
        return b"".join(out)

    def error(self, failure: Failure) -> bytes:
        """An error event; no end mark follows."""
        return error_event(failure)
