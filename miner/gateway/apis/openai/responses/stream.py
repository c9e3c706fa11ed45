"""A response as server-sent events: items open, grow and close, and the last event holds the complete response."""

from __future__ import annotations

from typing import Any

import msgspec

from miner.core.wire import FinishReason, LLMChunk, LLMResponse, TokenLogprob, TokenUsage, ToolCall
from miner.gateway.apis.base import Call, Head
from miner.gateway.apis.openai.convert import logprob_entry
from miner.gateway.apis.openai.responses.items import (
    call_item,
    final_response,
    incomplete_reason,
    message_item,
    reasoning_item,
    response_object,
    text_part,
)
from miner.gateway.errors import Failure

__all__ = ["ResponseStream"]

_encode = msgspec.json.encode


class _Item:
    """One item of the output while it grows."""

    __slots__ = ("call", "id", "logprobs", "place", "texts")

    def __init__(self, item_id: str, place: int, call: ToolCall | None = None) -> None:
        self.id = item_id
        self.place = place
        self.texts: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.call = call


class ResponseStream:
    """Writes the events of one response."""

    def __init__(self, call: Call, head: Head) -> None:
        self._call = call
        self._head = head
        self._sequence_number = 0
        self._started = False
        self._output: dict[int, dict[str, Any]] = {}
        self._places = 0
        self._message: _Item | None = None
        self._reasoning: _Item | None = None
        self._calls: dict[int, _Item] = {}
        self._delta_before = b""
        self._finish: FinishReason | None = None
        self._usage: TokenUsage | None = None

    def batch(self, batch: list[LLMChunk], index: int) -> bytes:
        """The events of a batch."""
        out: list[bytes] = [] if self._started else self._start()
        for chunk in batch:
            if chunk.reasoning:
                self._add_reasoning(chunk.reasoning, out)
            if chunk.content:
                self._add_text(chunk.content, chunk.logprobs, out)
            for delta in chunk.tool_calls or ():
                self._add_call(delta, out)
            if chunk.finish_reason is not None:
                self._finish = chunk.finish_reason
            if chunk.usage is not None:
                self._usage = chunk.usage
        return b"".join(out)

    def end(self, responses: list[LLMResponse]) -> bytes:
        """The events that close the open items, and the complete response."""
        out = [] if self._started else self._start()
        self._close_reasoning(out)
        if not self._places:
            self._open_message(out)  # a response without text is an empty message
        self._close_message(out)
        for item in self._calls.values():
            self._close_call(item, out)
        response = final_response(self._call, self._head, self._outputs(), self._finish, self._usage)
        out.append(self._event(f"response.{response['status']}", response=response))
        return b"".join(out)

    def error(self, failure: Failure) -> bytes:
        """The error, and the response as failed."""
        out = [] if self._started else self._start()
        out.append(self._event("error", code=failure.code, message=failure.message, param=failure.param))
        response = response_object(self._call, self._head, "failed", self._outputs())
        code = "rate_limit_exceeded" if failure.status == 429 else "server_error"
        response["error"] = {"code": code, "message": failure.message}
        out.append(self._event("response.failed", response=response))
        return b"".join(out)

    def _start(self) -> list[bytes]:
        self._started = True
        response = response_object(self._call, self._head, "in_progress", [])
        return [
            self._event("response.created", response=response),
            self._event("response.in_progress", response=response),
        ]

    def _event(self, kind: str, **fields: Any) -> bytes:
        data = {"type": kind, "sequence_number": self._sequence_number, **fields}
        self._sequence_number += 1
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), _encode(data))

    def _outputs(self) -> list[dict[str, Any]]:
        return [self._output[place] for place in sorted(self._output)]

    def _new(self, prefix: str, call: ToolCall | None = None) -> _Item:
        place = self._places
        self._places += 1
        return _Item(f"{prefix}_{place}_{self._head.id}", place, call)

    # Reasoning

    def _add_reasoning(self, text: str, out: list[bytes]) -> None:
        item = self._reasoning
        if item is None:
            self._close_message(out)
            item = self._reasoning = self._new("rs")
            opened = {**reasoning_item(item.id, ""), "status": "in_progress"}
            out.append(self._event("response.output_item.added", output_index=item.place, item=opened))
        item.texts.append(text)
        out.append(self._item_event("response.reasoning_text.delta", item, content_index=0, delta=text))

    def _close_reasoning(self, out: list[bytes]) -> None:
        item, self._reasoning = self._reasoning, None
        if item is None:
            return
        text = "".join(item.texts)
        out.append(self._item_event("response.reasoning_text.done", item, content_index=0, text=text))
        self._done(item, reasoning_item(item.id, text), out)

    # Text

    def _open_message(self, out: list[bytes]) -> _Item:
        self._close_reasoning(out)
        item = self._message = self._new("msg")
        opened = message_item(item.id, "", status="in_progress")
        out.append(self._event("response.output_item.added", output_index=item.place, item=opened))
        out.append(self._item_event("response.content_part.added", item, content_index=0, part=text_part("")))
        self._delta_before = (
            b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","item_id":"%s",'
            b'"output_index":%d,"content_index":0,"logprobs":[],"sequence_number":' % (item.id.encode(), item.place)
        )
        return item

    def _add_text(self, text: str, logprobs: list[TokenLogprob] | None, out: list[bytes]) -> None:
        item = self._message
        if item is None:
            item = self._open_message(out)
        item.texts.append(text)
        if logprobs is None:
            # Nearly every event: one piece of text between two strings that stay the same.
            out.append(b'%s%d,"delta":%s}\n\n' % (self._delta_before, self._sequence_number, _encode(text)))
            self._sequence_number += 1
            return
        item.logprobs += logprobs
        entries = [logprob_entry(one) for one in logprobs]
        out.append(self._item_event("response.output_text.delta", item, content_index=0, delta=text, logprobs=entries))

    def _close_message(self, out: list[bytes]) -> None:
        item, self._message = self._message, None
        if item is None:
            return
        part = text_part("".join(item.texts), item.logprobs)
        done = {"text": part["text"], "logprobs": part["logprobs"]}
        out.append(self._item_event("response.output_text.done", item, content_index=0, **done))
        out.append(self._item_event("response.content_part.done", item, content_index=0, part=part))
        status = "completed" if incomplete_reason(self._finish) is None else "incomplete"
        self._done(item, message_item(item.id, part["text"], item.logprobs, status), out)

    # Calls

    def _add_call(self, delta: ToolCall, out: list[bytes]) -> None:
        number = delta.get("index", 0)
        function = delta.get("function") or {}
        item = self._calls.get(number)
        if item is None:
            self._close_reasoning(out)
            self._close_message(out)
            empty = {"id": delta.get("id"), "function": {"name": function.get("name", ""), "arguments": ""}}
            item = self._calls[number] = self._new("fc", empty)
            opened = call_item(item.id, empty, "in_progress")
            out.append(self._event("response.output_item.added", output_index=item.place, item=opened))
        arguments = function.get("arguments")
        if arguments:
            item.texts.append(arguments)
            out.append(self._item_event("response.function_call_arguments.delta", item, delta=arguments))

    def _close_call(self, item: _Item, out: list[bytes]) -> None:
        assert item.call is not None
        arguments = "".join(item.texts)
        item.call["function"]["arguments"] = arguments
        name = item.call["function"]["name"]
        out.append(self._item_event("response.function_call_arguments.done", item, arguments=arguments, name=name))
        self._done(item, call_item(item.id, item.call), out)

    def _item_event(self, kind: str, item: _Item, **fields: Any) -> bytes:
        return self._event(kind, item_id=item.id, output_index=item.place, **fields)

    def _done(self, item: _Item, complete: dict[str, Any], out: list[bytes]) -> None:
        self._output[item.place] = complete
        out.append(self._event("response.output_item.done", output_index=item.place, item=complete))
