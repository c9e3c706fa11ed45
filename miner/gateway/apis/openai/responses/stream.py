"""A response as server-sent events: items open, grow and close, and the last event holds the complete response."""

from __future__ import annotations

from typing import Any

import msgspec

from miner.core.wire import FinishReason, LLMChunk, LLMResponse, TokenLogprob, TokenUsage, ToolCall
from miner.gateway.apis.openai.response import logprob_entry
from miner.gateway.apis.openai.responses.items import (
    call_item,
    call_prefix,
    incomplete_reason,
    item_id,
    message_item,
    reasoning_item,
    text_part,
)
from miner.gateway.apis.openai.responses.response import (
    ResponseOptions,
    failed_response,
    final_response,
    response_object,
)
from miner.gateway.apis.openai.responses.tools import InputReader, ToolName
from miner.gateway.dialect import Call, Head
from miner.gateway.errors import Failure

_encode = msgspec.json.encode


class _Item:
    """One item of the output while it grows."""

    __slots__ = ("call", "closed", "id", "index", "logprobs", "reader", "texts", "tool")

    def __init__(self, name: str, index: int, call: ToolCall | None, tool: ToolName | None) -> None:
        self.id = name
        self.index = index
        self.call = call
        self.tool = tool
        """The tool that is called."""
        self.reader = InputReader() if tool is not None and tool.kind == "custom" else None
        self.texts: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.closed: dict[str, Any] | None = None
        """The complete item, once it is closed."""


class ResponseStream:
    """Writes the events of one response."""

    def __init__(self, call: Call, head: Head) -> None:
        self._call = call
        self._options: ResponseOptions = call.options
        self.head = head
        """Its model may become known later."""
        self._out: list[bytes] = []
        """Events that are not yet returned."""
        self.recorded: list[bytes] | None = None
        """All events, each at the place of its sequence number, where they can be read again."""
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
        return self._taken()

    def queued(self) -> bytes:
        """The events of a response that waits: it was created, and is queued."""
        response = response_object(self._call, self.head, "queued", [])
        self._event("response.created", response=response)
        self._event("response.queued", response=response)
        return self._taken()

    def started(self) -> bytes:
        """The event of a response that is generated now."""
        self._event("response.in_progress", response=response_object(self._call, self.head, "in_progress", []))
        return self._taken()

    def finish(self) -> dict[str, Any]:
        """Close the items and return the complete response, which the last event will hold."""
        if self._sequence_number == 0:
            self._start()
        self._close_reasoning()
        if not self._items:
            self._open_message()  # a response without text is an empty message
        self._close_message()
        cut = incomplete_reason(self._finish) is not None
        calls = list(self._calls.values())
        for item in calls:
            self._close_call(item, "incomplete" if cut and item is calls[-1] else "completed")
        self._options.final = final_response(self._call, self.head, self._output(), self._finish, self._usage)
        return self._options.final

    def end(self, responses: list[LLMResponse]) -> bytes:
        """The events that close the open items, and the complete response."""
        response = self._options.final or self.finish()
        self._event(f"response.{response['status']}", response=response)
        return self._taken()

    def error(self, failure: Failure) -> bytes:
        """The error, and the response as failed."""
        if self._sequence_number == 0:
            self._start()
        self._event("error", code=failure.code, message=failure.message, param=failure.param)
        return self._failed(failure)

    def failed(self, failure: Failure) -> bytes:
        """The response as failed, without the error that ends a connection."""
        return self._failed(failure)

    def _failed(self, failure: Failure) -> bytes:
        self._options.final = failed_response(self._call, self.head, failure, self._output())
        self._event("response.failed", response=self._options.final)
        return self._taken()

    def cancelled(self) -> bytes:
        """The response as cancelled, with the items that were complete. There is no event of its own for that."""
        self._options.final = response_object(self._call, self.head, "cancelled", self._output())
        self._event("response.incomplete", response=self._options.final)
        return self._taken()

    def _taken(self) -> bytes:
        if self.recorded is not None:
            self.recorded += self._out
        data = b"".join(self._out)
        self._out.clear()
        return data

    def _start(self) -> None:
        response = response_object(self._call, self.head, "in_progress", [])
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

    def _open(self, prefix: str, call: ToolCall | None = None, tool: ToolName | None = None) -> _Item:
        index = len(self._items)
        item = _Item(item_id(prefix, self.head.id, index), index, call, tool)
        self._items.append(item)
        self._event("response.output_item.added", output_index=index, item=self._object(item, "in_progress"))
        return item

    def _close(self, item: _Item, status: str = "completed") -> None:
        item.closed = self._object(item, status)
        self._event("response.output_item.done", output_index=item.index, item=item.closed)

    def _object(self, item: _Item, status: str) -> dict[str, Any]:
        if item.call is not None:
            assert item.tool is not None
            return call_item(item.id, item.call, item.tool, status)
        text = "".join(item.texts)
        if item.id.startswith("rs_"):
            return reasoning_item(item.id, text, status, encrypted=self._options.encrypted)
        return message_item(item.id, text, item.logprobs, status)

    def _add_reasoning(self, text: str) -> None:
        item = self._reasoning
        if item is None:
            self._close_message()
            item = self._reasoning = self._open("rs")
            part = {"type": "summary_text", "text": ""}
            self._item_event("response.reasoning_summary_part.added", item, summary_index=0, part=part)
            content = {"type": "reasoning_text", "text": ""}
            self._item_event("response.content_part.added", item, content_index=0, part=content)
        item.texts.append(text)
        self._item_event("response.reasoning_text.delta", item, content_index=0, delta=text)
        self._item_event("response.reasoning_summary_text.delta", item, summary_index=0, delta=text)

    def _close_reasoning(self) -> None:
        item, self._reasoning = self._reasoning, None
        if item is None:
            return
        text = "".join(item.texts)
        self._item_event("response.reasoning_text.done", item, content_index=0, text=text)
        content = {"type": "reasoning_text", "text": text}
        self._item_event("response.content_part.done", item, content_index=0, part=content)
        self._item_event("response.reasoning_summary_text.done", item, summary_index=0, text=text)
        part = {"type": "summary_text", "text": text}
        self._item_event("response.reasoning_summary_part.done", item, summary_index=0, part=part)
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
        cut = incomplete_reason(self._finish) is not None and not self._calls
        self._close(item, "incomplete" if cut else "completed")

    def _add_call(self, delta: ToolCall) -> None:
        number = delta.get("index", 0)
        function = delta.get("function") or {}
        item = self._calls.get(number)
        if item is None:
            self._close_reasoning()
            self._close_message()
            empty: ToolCall = {"id": delta.get("id"), "function": {"name": function.get("name", ""), "arguments": ""}}
            tool = self._options.tools.of(empty["function"]["name"])
            item = self._calls[number] = self._open(call_prefix(tool), empty, tool)
        arguments = function.get("arguments")
        if not arguments:
            return
        item.texts.append(arguments)
        if item.reader is None:
            self._item_event("response.function_call_arguments.delta", item, delta=arguments)
        elif text := item.reader.feed(arguments):
            self._item_event("response.custom_tool_call_input.delta", item, delta=text)

    def _close_call(self, item: _Item, status: str) -> None:
        assert item.call is not None
        assert item.tool is not None
        function = item.call["function"]
        function["arguments"] = "".join(item.texts)
        if item.reader is None:
            done = {"arguments": function["arguments"], "name": item.tool.name}
            self._item_event("response.function_call_arguments.done", item, **done)
        else:
            text, sent = self._object(item, status)["input"], item.reader.text
            if text.startswith(sent) and text != sent:
                self._item_event("response.custom_tool_call_input.delta", item, delta=text[len(sent) :])
            self._item_event("response.custom_tool_call_input.done", item, input=text)
        self._close(item, status)
