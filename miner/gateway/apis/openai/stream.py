"""Completions as server-sent events, written by hand: most are one piece of text between two constant strings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from miner.core.wire import LLMChunk, LLMResponse, TokenLogprob, TokenUsage
from miner.gateway.apis.openai.errors import error_event
from miner.gateway.apis.openai.response import chat_logprobs, completion_choice, usage_of_choices
from miner.gateway.dialect import Head
from miner.gateway.errors import Failure

STREAM_TYPE = "text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": keep-alive\n\n"
_encode = msgspec.json.encode


@dataclass(slots=True)
class ChoiceOptions:
    """The fields of the body that affect how its choices are written."""

    include_usage: bool
    prompts: int = 1
    """Prompts of the request; each has as many choices."""


class _ChoiceStream:
    """The constant head of each event, and usage at the end."""

    def __init__(self, head: Head, prefix: bytes, kind: bytes, options: ChoiceOptions) -> None:
        self._before = b'data: {"id":"%s%s","object":"%s","created":%d,"model":%s,"choices":[' % (
            prefix, head.id.encode(), kind, head.created, _encode(head.model),
        )  # fmt: skip
        self._after = b'],"usage":null}\n\n' if options.include_usage else b"]}\n\n"
        self._options = options
        self._usages: dict[int, TokenUsage] = {}

    def end(self, responses: list[LLMResponse]) -> bytes:
        """Usage where it was requested, and `[DONE]`."""
        usage = None
        if self._options.include_usage:
            usages = [self._usages.get(index) for index in range(len(responses))]
            usage = usage_of_choices(usages, self._options.prompts)
        if usage is None:  # also where the engine sent none: no event is better than one of zeros
            return DONE
        return self._before + b'],"usage":' + _encode(usage) + b"}\n\n" + DONE

    def error(self, failure: Failure) -> bytes:
        """An error event; no `[DONE]` follows."""
        return error_event(failure)


class ChatStream(_ChoiceStream):
    """Writes `chat.completion.chunk` events, of one or several choices."""

    def __init__(self, head: Head, options: ChoiceOptions) -> None:
        super().__init__(head, b"chatcmpl-", b"chat.completion.chunk", options)
        self._text_before = self._before + b'{"index":0,"delta":{"content":'
        self._text_after = b'},"logprobs":null,"finish_reason":null}' + self._after
        self._started: set[int] = set()

    def batch(self, batch: list[LLMChunk], index: int) -> bytes:
        """The events of a batch."""
        out: list[bytes] = []
        if index not in self._started:
            self._started.add(index)
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
                self._usages[index] = chunk.usage
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
            out.append(self._event(index, delta, chunk.logprobs, chunk.finish_reason))

    def _event(
        self, index: int, delta: dict[str, Any], logprobs: list[TokenLogprob] | None = None, reason: str | None = None
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": chat_logprobs(logprobs), "finish_reason": reason}
        return self._before + _encode(choice) + self._after


class CompletionStream(_ChoiceStream):
    """Writes `text_completion` events, of one or several choices."""

    def __init__(self, head: Head, options: ChoiceOptions) -> None:
        super().__init__(head, b"cmpl-", b"text_completion", options)
        self._text_after = b',"logprobs":null,"finish_reason":null}' + self._after
        self._offsets: dict[int, int] = {}

    def batch(self, batch: list[LLMChunk], index: int) -> bytes:
        """The events of a batch."""
        out: list[bytes] = []
        before = self._before + b'{"index":%d,"text":' % index
        for chunk in batch:
            if chunk.content is not None and chunk.finish_reason is None and chunk.logprobs is None:
                out += (before, _encode(chunk.content), self._text_after)
            elif chunk.content is not None or chunk.finish_reason is not None:
                offset = self._offsets.get(index, 0)
                choice = completion_choice(index, chunk.content or "", chunk.logprobs, chunk.finish_reason, offset)
                if chunk.logprobs is not None:
                    self._offsets[index] = offset + sum(len(one.token) for one in chunk.logprobs)
                out += (self._before, _encode(choice), self._after)
            if chunk.usage is not None:
                self._usages[index] = chunk.usage
        return b"".join(out)
