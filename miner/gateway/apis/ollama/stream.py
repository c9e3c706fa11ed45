"""Streams in Ollama's form: one JSON object per line, written by hand where it holds only text."""

from __future__ import annotations

from typing import Any

import msgspec

from miner.core.wire import FinishReason, LLMChunk, LLMResponse, Timings, TokenUsage, ToolCall
from miner.gateway.apis.ollama.errors import error_line
from miner.gateway.apis.ollama.response import (
    Kind,
    Reply,
    final_fields,
    logprob_entries,
    text_fields,
    timestamp,
    tool_calls,
)
from miner.gateway.errors import Failure

STREAM_TYPE = "application/x-ndjson"
_encode = msgspec.json.encode


class LineStream:
    """Writes one streamed response. Tool calls go out when they are complete; counts are in the last line."""

    def __init__(self, kind: Kind, reply: Reply) -> None:
        self._kind: Kind = kind
        self._reply = reply
        self._head = b'{"model":' + _encode(reply.model) + b',"created_at":"'
        if kind == "chat":
            self._text = b'","message":{"role":"assistant","content":', b'},"done":false}\n'
        else:
            self._text = b'","response":', b',"done":false}\n'
        self._calls: dict[int, ToolCall] = {}
        self._sent = 0
        self._reason: FinishReason | None = None
        self._usage: TokenUsage | None = None
        self._timings: Timings | None = None
        self._context: dict[str, list[int]] = {}

    def batch(self, batch: list[LLMChunk], index: int) -> bytes:
        """The lines of a batch."""
        stamp = timestamp()
        before, after = self._head + stamp.encode() + self._text[0], self._text[1]
        out: list[bytes] = []
        for chunk in batch:
            content = chunk.content
            if content is not None and chunk.reasoning is None and chunk.tool_calls is None and chunk.logprobs is None:
                out += (before, _encode(content), after)
            elif content is not None or chunk.reasoning is not None or chunk.logprobs is not None:
                out.append(self._other(chunk, stamp))
            for call in chunk.tool_calls or ():
                self._add(call, out, stamp)
            if chunk.finish_reason is not None:
                self._reason = chunk.finish_reason
                self._flush(out, stamp)
            if chunk.context is not None:
                self._context = {"context": chunk.context}
            if chunk.usage is not None:
                self._usage = chunk.usage
            if chunk.timings is not None:
                self._timings = chunk.timings
        return b"".join(out)

    def _line(self, fields: dict[str, Any], stamp: str) -> bytes:
        return _encode({"model": self._reply.model, "created_at": stamp, **fields}) + b"\n"

    def _other(self, chunk: LLMChunk, stamp: str) -> bytes:
        fields: dict[str, Any] = {**text_fields(self._kind, chunk.content or "", chunk.reasoning), "done": False}
        if chunk.logprobs is not None:
            fields["logprobs"] = logprob_entries(chunk.logprobs)
        return self._line(fields, stamp)

    def _add(self, delta: ToolCall, out: list[bytes], stamp: str) -> None:
        """Add a delta to its tool call; the calls before it are complete."""
        place = delta.get("index", 0)
        if place not in self._calls:
            self._flush(out, stamp)
            self._calls[place] = {"id": "", "function": {"name": "", "arguments": ""}}
        call, function = self._calls[place], delta.get("function") or {}
        call["id"] = delta.get("id") or call["id"]
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""

    def _flush(self, out: list[bytes], stamp: str) -> None:
        for call in tool_calls(self._calls.values(), self._sent, truncated=self._reason == "length"):
            self._sent += 1
            out.append(self._line({**text_fields(self._kind, "", None, [call]), "done": False}, stamp))
        self._calls.clear()

    def end(self, responses: list[LLMResponse]) -> bytes:
        """The last line: why it ended, and the counts."""
        stamp = timestamp()
        out: list[bytes] = []
        self._flush(out, stamp)
        final = final_fields(self._reply, self._reason, self._usage, self._timings)
        return b"".join(out) + self._line({**text_fields(self._kind, "", None), **final, **self._context}, stamp)

    def error(self, failure: Failure) -> bytes:
        """A line with the error; no last line follows."""
        return error_line(failure)
