"""Chat completions as events, written by hand: most events are one piece of text between two constant strings."""

from __future__ import annotations

from typing import Any

import msgspec

from miner.core.wire import LLMChunk, LLMResponse
from miner.gateway.apis.base import Head
from miner.gateway.apis.openai.common import DONE, logprob_entry, usage_object, usage_of_choices
from miner.gateway.apis.openai.errors import error_event
from miner.gateway.errors import Failure

__all__ = ["ChatStream"]

_encode = msgspec.json.encode


class ChatStream:
    """Writes one streamed chat completion, of one or several choices."""

    def __init__(self, head: Head, *, include_usage: bool) -> None:
        self._before = (
            b'data: {"id":"chatcmpl-%s","object":"chat.completion.chunk","created":%d,"model":%s,"choices":['
            % (head.id.encode(), head.created, _encode(head.model))
        )
        self._include_usage = include_usage
        self._after = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._text_before = self._before + b'{"index":0,"delta":{"content":'
        self._text_after = b'},"logprobs":null,"finish_reason":null}' + self._after
        self._begun: set[int] = set()
        self._responses: dict[int, LLMResponse] = {}

    def batch(self, batch: list[LLMChunk], index: int) -> bytes:
        """The events of a batch."""
        out: list[bytes] = []
        if index not in self._begun:
            self._begun.add(index)
            out.append(self._event(index, {"role": "assistant", "content": ""}))
        before, after = self._text_before, self._text_after
        for chunk in batch:
            content = chunk.content
            if (
                content is not None
                and index == 0
                and chunk.finish_reason is None
                and chunk.reasoning is None
                and chunk.tool_calls is None
                and chunk.logprobs is None
            ):
                out += (before, _encode(content), after)
            else:
                self._other(chunk, index, out)
            if chunk.usage is not None:
                self._responses[index] = LLMResponse(usage=chunk.usage)
        return b"".join(out)

    def _other(self, chunk: LLMChunk, index: int, out: list[bytes]) -> None:
        delta: dict[str, Any] = {}
        if chunk.reasoning is not None:
            delta["reasoning_content"] = chunk.reasoning
        if chunk.content is not None:
            delta["content"] = chunk.content
        if chunk.tool_calls is not None:
            delta["tool_calls"] = chunk.tool_calls
        if delta or chunk.finish_reason is not None or chunk.logprobs is not None:
            out.append(self._event(index, delta, chunk))

    def _event(self, index: int, delta: dict[str, Any], chunk: LLMChunk | None = None) -> bytes:
        logprobs = None
        if chunk is not None and chunk.logprobs is not None:
            logprobs = {"content": [logprob_entry(one) for one in chunk.logprobs], "refusal": None}
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": None if chunk is None else chunk.finish_reason,
        }
        return self._before + _encode(choice) + self._after

    def end(self, responses: list[LLMResponse]) -> bytes:
        """Usage where it was asked for, and the end mark."""
        if not self._include_usage:
            return DONE
        told = [self._responses.get(index, LLMResponse()) for index in range(len(responses))]
        usage = usage_object(usage_of_choices(told, 1))
        if usage is None:  # the engine sent none: no event is better than one of zeros
            return DONE
        return self._before + b'],"usage":' + _encode(usage) + b"}\n\n" + DONE

    def error(self, failure: Failure) -> bytes:
        """An error event; no end mark follows."""
        return error_event(failure)
