"""Completions as server-sent events, written by hand: most are one piece of text between two constant strings."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, ClassVar

import msgspec

from miner.core.wire import LLMChunk, LLMResponse, Timings, TokenLogprob, TokenUsage
from miner.gateway.apis.openai.custom_tools import CustomCalls
from miner.gateway.apis.openai.errors import error_event
from miner.gateway.apis.openai.legacy_functions import function_call
from miner.gateway.apis.openai.llamacpp_fields import PromptProgress, timings_object
from miner.gateway.apis.openai.options import ChoiceOptions
from miner.gateway.apis.openai.response import (
    FINGERPRINT,
    SERVICE_TIER,
    chat_logprobs,
    completion_choice,
    function_reason,
    usage_object,
    usage_of_choices,
)
from miner.gateway.dialect import Head
from miner.gateway.errors import Failure

STREAM_TYPE = "text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": keep-alive\n\n"
_encode = msgspec.json.encode


def without_text(responses: list[LLMResponse]) -> None:
    """Drop what was generated in responses that only compute the prompt."""
    for response in responses:
        response.content, response.finish_reason = "", "length"
        response.reasoning = response.tool_calls = response.logprobs = None


def _without_text(chunk: LLMChunk) -> None:
    chunk.content = chunk.reasoning = chunk.tool_calls = chunk.logprobs = None
    chunk.finish_reason = "length" if chunk.finish_reason is not None else None


def timings_of(options: ChoiceOptions, responses: list[LLMResponse]) -> dict[str, Any]:
    """`timings` of a response that is not streamed, where they are wanted and known."""
    timings = timings_object(responses[0].usage, responses[0].timings) if len(responses) == 1 else None
    return {"timings": timings} if options.timings and timings is not None else {}


class _ChoiceStream:
    """The constant head of each event, and usage at the end."""

    kind: ClassVar[bytes]
    id_prefix: ClassVar[bytes]
    constants: ClassVar[dict[str, str]]
    """Fields that are the same in each event."""
    text_end: ClassVar[bytes]
    """What follows the text in an event that has nothing else."""

    def __init__(self, head: Head, options: ChoiceOptions) -> None:
        self._before = b'data: {"id":"%s%s","object":"%s","created":%d,"model":%s,%s,"choices":[' % (
            self.id_prefix, head.id.encode(), self.kind, head.created, _encode(head.model),
            _encode(self.constants)[1:-1],
        )  # fmt: skip
        self._options = options
        self._usages: dict[int, TokenUsage] = {}
        """Usage of each choice: what it has cost so far, or in the end."""
        self._reasoned = False
        self._timings: Timings | None = None
        self._progress = PromptProgress()
        self._set_end(b'],"usage":null}\n\n' if options.include_usage else b"]}\n\n")

    def _set_end(self, end: bytes) -> None:
        self._after = end
        self._text_after = self.text_end + end

    def _count(self, chunk: LLMChunk, index: int) -> None:
        """Note the usage of a choice; in a stream with continuous usage its events end with it from now on."""
        usage = chunk.usage or chunk.usage_so_far
        if usage is not None:
            self._usages[index] = usage
        if self._options.continuous_usage and (known := self._usages.get(index)) is not None:
            self._set_end(b'],"usage":%s}\n\n' % _encode(usage_object(known, reasoned=self._reasoned)))

    def end(self, responses: list[LLMResponse]) -> bytes:
        """Usage where it was requested, and `[DONE]`."""
        usage = None
        if self._options.include_usage:
            usages = [self._usages.get(index) for index in range(len(responses))]
            usage = usage_of_choices(usages, self._options.prompts)
        timings = self._timings_field()
        if usage is None and timings:
            return self._before + b"]" + timings + b"}\n\n" + DONE
        if usage is None:  # also where the engine sent none: no event is better than one of zeros
            return DONE
        described = _encode(usage_object(usage, reasoned=self._reasoned))
        return self._before + b'],"usage":' + described + timings + b"}\n\n" + DONE

    def _timings_field(self) -> bytes:
        """`timings`, where they are wanted and known."""
        if not self._options.timings or len(self._usages) != 1:
            return b""
        timings = timings_object(next(iter(self._usages.values())), self._timings)
        return b"" if timings is None else b',"timings":' + _encode(timings)

    def _note(self, chunk: LLMChunk, choice: bytes, out: list[bytes]) -> None:
        """Note the timings of a chunk, and write the progress that it reports."""
        self._timings = chunk.timings or self._timings
        report = self._progress.report(chunk.progress)
        if report is not None:
            out += (self._before, choice, b'],"prompt_progress":', _encode(report), b"}\n\n")

    def error(self, failure: Failure) -> bytes:
        """An error event; no `[DONE]` follows."""
        return error_event(failure)


class ChatStream(_ChoiceStream):
    """Writes `chat.completion.chunk` events, of one or several choices."""

    kind = b"chat.completion.chunk"
    id_prefix = b"chatcmpl-"
    constants: ClassVar[dict[str, str]] = {"service_tier": SERVICE_TIER, "system_fingerprint": FINGERPRINT}
    text_end = b'},"logprobs":null,"finish_reason":null}'

    def __init__(self, head: Head, options: ChoiceOptions) -> None:
        super().__init__(head, options)
        self._text_before = self._before + b'{"index":0,"delta":{"content":'
        self._started: set[int] = set()
        self._custom: defaultdict[int, CustomCalls] = defaultdict(lambda: CustomCalls(options.custom_tools))

    def batch(self, batch: list[LLMChunk], index: int) -> bytes:
        """The events of a batch."""
        out: list[bytes] = []
        if self._options.continuous_usage:
            self._count(batch[0], index)
        if index not in self._started:
            self._started.add(index)
            # llama.cpp's clients know the first event by its content, null.
            start = {"role": "assistant", "content": None if self._options.timings else "", "refusal": None}
            out.append(self._event(index, start))
        before = self._text_before
        for chunk in batch:
            if self._options.prompt_only:
                _without_text(chunk)
            if chunk.usage is not None or chunk.usage_so_far is not None:
                self._count(chunk, index)
            if self._options.timings:
                choice = b'{"index":%d,"delta":{},"logprobs":null,"finish_reason":null}' % index
                self._note(chunk, choice, out)
            content = chunk.content
            if (
                content is not None
                and index == 0
                and chunk.finish_reason is None
                and chunk.reasoning is None
                and chunk.tool_calls is None
                and chunk.logprobs is None
            ):
                out += (before, _encode(content), self._text_after)
            else:
                self._other(chunk, index, out)
        return b"".join(out)

    def _other(self, chunk: LLMChunk, index: int, out: list[bytes]) -> None:
        delta: dict[str, Any] = {}
        if chunk.reasoning is not None:
            self._reasoned = True
            delta["reasoning_content"] = chunk.reasoning
        if chunk.content is not None:
            delta["content"] = chunk.content
        if chunk.tool_calls is not None and self._options.functions:
            delta["function_call"] = function_call(chunk.tool_calls)
        elif chunk.tool_calls is not None:
            deltas = self._custom[index].deltas(chunk.tool_calls) if self._options.custom_tools else chunk.tool_calls
            if deltas:
                delta["tool_calls"] = deltas
        if delta or chunk.logprobs is not None:
            out.append(self._event(index, delta, chunk.logprobs))
        if chunk.finish_reason is not None:  # by itself, as at OpenAI: clients stop reading deltas at it
            rest = self._custom[index].rest() if self._options.custom_tools else None
            if rest:
                out.append(self._event(index, {"tool_calls": rest}))
            functions = self._options.functions
            reason = function_reason(chunk.finish_reason) if functions else chunk.finish_reason
            out.append(self._event(index, {}, reason=reason))

    def _event(
        self, index: int, delta: dict[str, Any], logprobs: list[TokenLogprob] | None = None, reason: str | None = None
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": chat_logprobs(logprobs), "finish_reason": reason}
        return self._before + _encode(choice) + self._after


class CompletionStream(_ChoiceStream):
    """Writes `text_completion` events, of one or several choices."""

    kind = b"text_completion"
    id_prefix = b"cmpl-"
    constants: ClassVar[dict[str, str]] = {"system_fingerprint": FINGERPRINT}
    text_end = b',"logprobs":null,"finish_reason":null}'

    def __init__(self, head: Head, options: ChoiceOptions) -> None:
        super().__init__(head, options)
        self._offsets: dict[int, int] = {}
        self._echo = dict(options.echo)

    def batch(self, batch: list[LLMChunk], index: int) -> bytes:
        """The events of a batch."""
        out: list[bytes] = []
        if self._options.continuous_usage:
            self._count(batch[0], index)
        before = self._before + b'{"index":%d,"text":' % index
        prompt = self._echo.pop(index, None)
        if prompt is not None:
            out += (before, _encode(prompt), self._text_after)
        for chunk in batch:
            if self._options.prompt_only:
                _without_text(chunk)
            if chunk.usage is not None or chunk.usage_so_far is not None:
                self._count(chunk, index)
            if self._options.timings:
                choice = b'{"index":%d,"text":"","logprobs":null,"finish_reason":null}' % index
                self._note(chunk, choice, out)
            if chunk.content is not None and chunk.logprobs is None:
                out += (before, _encode(chunk.content), self._text_after)
            elif chunk.logprobs is not None:
                offset = self._offsets.get(index, 0)
                out.append(self._event(completion_choice(index, chunk.content or "", chunk.logprobs, None, offset)))
                self._offsets[index] = offset + sum(len(one.token) for one in chunk.logprobs)
            if chunk.finish_reason is not None:
                out.append(self._event(completion_choice(index, "", None, chunk.finish_reason)))
        return b"".join(out)

    def _event(self, choice: dict[str, Any]) -> bytes:
        return self._before + _encode(choice) + self._after
