"""A response as server-sent events: items open, grow and close, and the last event holds the complete response."""

from __future__ import annotations

from typing import Any

import msgspec

from miner.core.wire import FinishReason, LLMChunk, LLMResponse, TokenLogprob, TokenUsage, ToolCall
from miner.gateway.apis.openai.response import logprob_entry
from miner.gateway.apis.openai.responses.items import (
    call_item,
    final_response,
    incomplete_reason,
    message_item,
    reasoning_item,
    response_object,
    text_part,
)
from miner.gateway.dialect import Call, Head
from miner.gateway.errors import Failure

STREAM_ERRORS = frozenset({"context_length_exceeded"})
"""Errors that OpenAI's API sends as events: Codex shortens the conversation after one, and not after a status 400."""
_encode = msgspec.json.encode


class _Item:
    """One item of the output while it grows."""

    __slots__ = ("call", "closed", "id", "index", "logprobs", "texts")

    def __init__(self, item_id: str, index: int, call: ToolCall | None) -> None:
        self.id = item_id
        self.index = index
        self.call = call
        self.texts: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.closed: dict[str, Any] | None = None
        """The complete item, once it is closed."""


class ResponseStream:
    """Writes the events of one response."""

    def __init__(self, call: Call, head: Head) -> None:
        self._call = call
        self._head = head
        self._out: list[bytes] = []
        """Events that are not yet returned."""
        self._sequence_number = 0
        self._items: list[_Item] = []
        self._message: _Item | None = None
        self._reasoning: _Item | None = None
        self._calls: dict[int, _Item] = {}
        self._delta_before = b""
        self._finish: FinishReason | None = None
        self._usage: TokenUsage | None = None

    def batch(self, batch: list[LLMChunk], index: int) -> bytes:
        """The events of a batch."""
        if self._sequence_number == 0:
            self._start()
        for chunk in batch:
            if chunk.reasoning:
                self._add_reasoning(chunk.reasoning)
            if chunk.content:
                self._add_text(chunk.content, chunk.logprobs)
            for delta in chunk.tool_calls or ():
                self._add_call(delta)
            if chunk.finish_reason is not None:
                self._finish = chunk.finish_reason
            if chunk.usage is not None:
                self._usage = chunk.usage
        data = b"".join(self._out)
        self._out.clear()
        return data

    def end(self, responses: list[LLMResponse]) -> bytes:
        """The events that close the open items, and the complete response."""
        if self._sequence_number == 0:
            self._start()
        self._close_reasoning()
        if not self._items:
            self._open_message()  # a response without text is an empty message
        self._close_message()
        for item in self._calls.values():
            self._close_call(item)
        response = final_response(self._call, self._head, self._output(), self._finish, self._usage)
        self._event(f"response.{response['status']}", response=response)
        return b"".join(self._out)

    def error(self, failure: Failure) -> bytes:
        """The error, and the response as failed."""
        if self._sequence_number == 0:
            self._start()
        self._event("error", code=failure.code, message=failure.message, param=failure.param)
        response = response_object(self._call, self._head, "failed", self._output())
        code = "rate_limit_exceeded" if failure.status == 429 else "server_error"
        if failure.code in STREAM_ERRORS:
            code = failure.code
        response["error"] = {"code": code, "message": failure.message}
        self._event("response.failed", response=response)
        return b"".join(self._out)

    def _start(self) -> None:
        response = response_object(self._call, self._head, "in_progress", [])
        self._event("response.created", response=response)
        self._event("response.in_progress", response=response)

    def _event(self, kind: str, **fields: Any) -> None:
        data = {"type": kind, "sequence_number": self._sequence_number, **fields}
        self._sequence_number += 1
        self._out.append(b"event: %s\ndata: %s\n\n" % (kind.encode(), _encode(data)))

    def _item_event(self, kind: str, item: _Item, **fields: Any) -> None:
        self._event(kind, item_id=item.id, output_index=item.index, **fields)

    def _output(self) -> list[dict[str, Any]]:
        return [item.closed for item in self._items if item.closed is not None]

    def _open(self, prefix: str, call: ToolCall | None = None) -> _Item:
        index = len(self._items)
        item = _Item(f"{prefix}_{index}_{self._head.id}", index, call)
        self._items.append(item)
        opened = _item_object(item, "in_progress")
        self._event("response.output_item.added", output_index=index, item=opened)
        return item

    def _close(self, item: _Item, status: str = "completed") -> None:
        item.closed = _item_object(item, status)
        self._event("response.output_item.done", output_index=item.index, item=item.closed)

    def _add_reasoning(self, text: str) -> None:
        if self._reasoning is None:
            self._close_message()
            self._reasoning = self._open("rs")
        self._reasoning.texts.append(text)
        self._item_event("response.reasoning_text.delta", self._reasoning, content_index=0, delta=text)

    def _close_reasoning(self) -> None:
        item, self._reasoning = self._reasoning, None
        if item is not None:
            self._item_event("response.reasoning_text.done", item, content_index=0, text="".join(item.texts))
            self._close(item)

    def _open_message(self) -> _Item:
        self._close_reasoning()
        item = self._message = self._open("msg")
        self._item_event("response.content_part.added", item, content_index=0, part=text_part(""))
        self._delta_before = (
            b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","item_id":"%s",'
            b'"output_index":%d,"content_index":0,"logprobs":[],"sequence_number":' % (item.id.encode(), item.index)
        )
        return item

    def _add_text(self, text: str, logprobs: list[TokenLogprob] | None) -> None:
        item = self._message
        if item is None:
            item = self._open_message()
        item.texts.append(text)
        if logprobs is None:
            # Nearly every event: one piece of text between two constant strings.
            self._out.append(b'%s%d,"delta":%s}\n\n' % (self._delta_before, self._sequence_number, _encode(text)))
            self._sequence_number += 1
            return
        item.logprobs += logprobs
        entries = [logprob_entry(one) for one in logprobs]
        self._item_event("response.output_text.delta", item, content_index=0, delta=text, logprobs=entries)

    def _close_message(self) -> None:
        item, self._message = self._message, None
        if item is None:
            return
        part = text_part("".join(item.texts), item.logprobs)
        done = {"text": part["text"], "logprobs": part["logprobs"]}
        self._item_event("response.output_text.done", item, content_index=0, **done)
        self._item_event("response.content_part.done", item, content_index=0, part=part)
        self._close(item, "completed" if incomplete_reason(self._finish) is None else "incomplete")

    def _add_call(self, delta: ToolCall) -> None:
        number = delta.get("index", 0)
        function = delta.get("function") or {}
        item = self._calls.get(number)
        if item is None:
            self._close_reasoning()
            self._close_message()
            empty = {"id": delta.get("id"), "function": {"name": function.get("name", ""), "arguments": ""}}
            item = self._calls[number] = self._open("fc", empty)
        arguments = function.get("arguments")
        if arguments:
            item.texts.append(arguments)
            self._item_event("response.function_call_arguments.delta", item, delta=arguments)

    def _close_call(self, item: _Item) -> None:
        assert item.call is not None
        function = item.call["function"]
        function["arguments"] = "".join(item.texts)
        done = {"arguments": function["arguments"], "name": function["name"]}
        self._item_event("response.function_call_arguments.done", item, **done)
        self._close(item)


def _item_object(item: _Item, status: str) -> dict[str, Any]:
    if item.call is not None:
        return call_item(item.id, item.call, status)
    text = "".join(item.texts)
    if item.id.startswith("rs_"):
        return reasoning_item(item.id, text, status)
    return message_item(item.id, text, item.logprobs, status)
