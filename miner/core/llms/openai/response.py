"""Responses of OpenAI's chat and completions API, as vLLM and llama.cpp really write them, mapped to chunks. One mapper
serves streamed and non-streaming replies, so that both are equal. The engines differ little: in the name of the
reasoning field, in where the finish reason stands, in llama.cpp's `timings` and `prompt_progress`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import msgspec
from msgspec import Struct

from miner.core._typing import override
from miner.core.http.errors import Upstream, interrupted
from miner.core.llms.contract.reply_reader import ReplyMapper
from miner.core.llms.contract.sampling import EngineLogprob, token_logprob
from miner.core.llms.contract.tools import arguments_parse
from miner.core.llms.contract.unparsed_reply import LostReplyError
from miner.core.wire import (
    ChatRequest,
    FinishReason,
    LLMChunk,
    Progress,
    Timings,
    TokenLogprob,
    TokenUsage,
    ToolCall,
)
from miner.errors import BackendUnavailableError

logger = logging.getLogger("miner.reply")


class _Function(Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _Call(Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(Struct, gc=False):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    thinking: str | None = None
    tool_calls: list[_Call] | None = None


class _Logprobs(Struct):
    content: list[EngineLogprob] | None = None
    tokens: list[str] | None = None
    """With the next two fields: the legacy arrays of vLLM's /v1/completions."""
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] = []


class _Choice(Struct, gc=False):
    index: int = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    """vLLM's: the stop string, or the id of the stop token, that ended the reply."""
    logprobs: _Logprobs | None = None


class _PromptDetails(Struct, gc=False):
    cached_tokens: int | None = None


class _CompletionDetails(Struct, gc=False):
    reasoning_tokens: int | None = None


class _Usage(Struct, gc=False):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    total_tokens: int = 0
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class _EngineTimings(Struct, gc=False):
    """llama.cpp's, in milliseconds."""

    cache_n: int | None = None
    prompt_n: int | None = None
    prompt_ms: float | None = None
    predicted_n: int | None = None
    predicted_ms: float | None = None


class _PromptProgress(Struct, gc=False):
    total: int
    processed: int
    cache: int = 0


class Event(Struct, gc=False):
    """One event of a stream, or a non-streaming response."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    model: str | None = None
    error: Any = None
    timings: _EngineTimings | None = None
    prompt_progress: _PromptProgress | None = None


decode_event: Final = msgspec.json.Decoder(Event).decode

_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "repetition": "repetition",  # vLLM: the same tokens over and over
}


class ChatMapper(ReplyMapper[Event]):
    """Maps the events of one reply to chunks.

    Args:
        watched: stop strings that the engine does not get.

    Attributes:
        aborted: the engine gave up on the request (vLLM's finish reason "abort", with status 200).
        finish_reason: the one that was received; None until then.
    """

    __slots__ = (
        "_alternatives", "_arguments", "_calls", "_counts", "_may_call", "_prompt", "_stops", "_timings",
        "_token_limit", "_usage", "_wants_progress", "_wants_prompt", "aborted", "finish_reason",
    )  # fmt: skip

    sentinel: ClassVar[bytes] = b"[DONE]"

    def __init__(self, request: ChatRequest, watched: Sequence[str] = ()) -> None:
        super().__init__(watched)
        self._token_limit = request.token_limit
        self._alternatives = request.logprobs or 0
        self._stops = request.stop
        self._wants_progress = request.progress
        self._may_call = request.tools is not None and request.tool_choice != "none"
        self._counts = request.continuous_usage
        self._wants_prompt = request.prompt_usage
        self._prompt: TokenUsage | None = None
        self._calls = 0
        self._usage: _Usage | None = None
        self._timings: _EngineTimings | None = None
        self._arguments: dict[int, list[str]] = {}
        self.aborted = False
        self.finish_reason: FinishReason | None = None

    @override
    def stop_chunk(self, matched: str | None) -> LLMChunk:
        reason = self._finish("stop")
        return LLMChunk(finish_reason=reason, stop_sequence=matched if reason == "stop" else None)

    @override
    def chunk(self, event: Event, /) -> LLMChunk | None:
        """Return the chunk for an event; None for one that holds nothing.

        Usage and timings wait for `finish`, because a server may send them with every event.
        """
        if not self._wants_prompt:
            return self._chunk(event)
        if (progress := event.prompt_progress) is not None:
            self._prompt = TokenUsage(progress.total, 0, progress.total, progress.cache)
        chunk = self._chunk(event)
        if self.delivered:
            self._wants_prompt = False
            if chunk is not None:
                chunk.prompt_usage = self._prompt or _prompt_usage(self._usage)
        return chunk

    def _chunk(self, event: Event) -> LLMChunk | None:
        if event.usage is not None:
            self._usage = event.usage
        if event.timings is not None:
            self._timings = event.timings
        if not event.choices:
            return self._progress(event)
        choice = event.choices[0]
        if choice.index:  # of several choices (`n` in `extra`) the first counts: they interleave in any order
            others = [one for one in event.choices if not one.index]
            if not others:
                return None
            choice = others[0]
        delta = choice.delta or choice.message
        content = choice.text if delta is None else delta.content
        reasoning = None if delta is None else delta.reasoning or delta.reasoning_content or delta.thinking
        calls = None if delta is None else delta.tool_calls
        if (
            choice.finish_reason is None
            and choice.logprobs is None
            and event.prompt_progress is None
            and not self._counts
        ):
            # Nearly every event: a piece of text or of a tool call, and nothing else.
            if calls:
                self.delivered = True
                return LLMChunk(content or None, reasoning or None, [self._call(call) for call in calls])
            if not content and not reasoning:
                return None
            self.delivered = True
            return LLMChunk(content or None, reasoning or None)
        chunk = self._progress(event) or LLMChunk()
        chunk.content, chunk.reasoning = content or None, reasoning or None
        if calls:
            chunk.tool_calls = [self._call(call) for call in calls]
        if choice.logprobs is not None:
            chunk.logprobs = _logprobs(choice.logprobs, self._alternatives)
        if chunk.content or chunk.reasoning or chunk.tool_calls:
            self.delivered = True
        if choice.finish_reason is not None:
            chunk.finish_reason = self._finish(choice.finish_reason)
            if chunk.finish_reason == "stop" and choice.stop_reason in self._stops:
                chunk.stop_sequence = str(choice.stop_reason)
            empty = [index for index, pieces in self._arguments.items() if not any(pieces)]
            if empty and chunk.finish_reason == "tool_calls":  # tools without parameters: `{}` is their JSON
                ends = [{"index": index, "function": {"arguments": "{}"}} for index in empty]
                chunk.tool_calls = [*(chunk.tool_calls or ()), *ends]
        if self._counts and chunk != _EMPTY:
            chunk.usage_so_far = _token_usage(event.usage, event.timings)
        return chunk if chunk != _EMPTY else None

    def _progress(self, event: Event) -> LLMChunk | None:
        """Return a chunk with the prefill progress, if requested."""
        progress = event.prompt_progress
        if progress is None or not self._wants_progress:
            return None
        return LLMChunk(progress=Progress(progress.processed, progress.total))

    @override
    def finish(self, out: list[LLMChunk]) -> None:
        """Append held-back text, and usage and timings of a reply that has ended, where the server sent them."""
        self.flush(out)
        if not self.ended:
            return
        chunk = LLMChunk()
        timings = self._timings
        chunk.usage = _token_usage(self._usage, timings)
        if chunk.usage is not None:
            completion = chunk.usage.completion_tokens
            # Ended before max_tokens: the context is full.
            chunk.context_exhausted = self.finish_reason == "length" and completion < self._token_limit
            cut_call = self._may_call and self.finish_reason == "length"  # before its arguments
            if self.lost is None and not self.delivered and completion > 8 and not self._stops and not cut_call:
                self.lost = f"it counted {completion} tokens and delivered none"
        if timings is not None and timings.predicted_ms is not None:
            chunk.timings = Timings(prefill=(timings.prompt_ms or 0.0) / 1000, decode=timings.predicted_ms / 1000)
        if chunk != _EMPTY:
            out.append(chunk)

    def _call(self, call: _Call) -> ToolCall:
        """Map a tool call or a piece of one. In a non-streaming response the index is the position."""
        index = self._calls if call.index is None else call.index
        if index >= self._calls:
            self._calls = index + 1
        pieces = self._arguments.get(index)
        if pieces is None:
            pieces = self._arguments[index] = []
        function: dict[str, str] = {}
        if (sent := call.function) is not None:
            if sent.name is not None:
                function["name"] = sent.name
            if sent.arguments is not None:
                function["arguments"] = sent.arguments
                pieces.append(sent.arguments)
        if call.id:
            return {"index": index, "id": call.id, "type": "function", "function": function}
        return {"index": index, "function": function}

    def _finish(self, engine_reason: str) -> FinishReason | None:
        if engine_reason == "abort":
            self.aborted = True
            return None
        reason: FinishReason = _FINISH.get(engine_reason, "unknown")
        if reason == "unknown":
            logger.warning("Unknown finish_reason of the engine: %.80r.", engine_reason)
        if reason == "tool_calls" and not self._calls:
            self.lost = "finish_reason is tool_calls and there is no tool call"
        if self._calls and (reason == "stop" or (reason == "length" and self._calls_complete())):
            # vLLM says "stop" after a call that tool_choice named, llama.cpp "length" after complete ones.
            reason = "tool_calls"
        self.finish_reason = reason
        return reason

    def _calls_complete(self) -> bool:
        """Whether the arguments of all calls so far are complete JSON objects."""
        return all(
            arguments_parse({"function": {"arguments": "".join(pieces) or "{"}}) for pieces in self._arguments.values()
        )

    @override
    def check_complete(self, upstream: Upstream) -> None:
        """Raise the error of a reply that was aborted, truncated or lost.

        Raises:
            BackendUnavailableError: it was aborted before anything was delivered.
            StreamInterruptedError: it was aborted later, or the stream ended without finish reason and `[DONE]`.
            LostReplyError: the engine counted tokens or announced calls that it did not deliver.
        """
        if self.aborted:
            problem = "aborted the request: it is shutting down."
            if self.delivered:
                raise interrupted(f"{upstream.label} {problem}", upstream, 200)
            raise upstream.error(
                BackendUnavailableError, problem, status=200, hint="Try again later.", engine_died=True
            )
        if self.finish_reason is None or not self.ended:
            raise interrupted(f"{upstream.label} closed the stream before it was complete.", upstream, 200)
        if self.lost is not None:
            hint = "Its tool or reasoning parser may have dropped it."
            raise upstream.error(LostReplyError, f"lost the reply: {self.lost}.", status=200, operator_hint=hint)


_EMPTY = LLMChunk()


def _token_usage(usage: _Usage | None, timings: _EngineTimings | None) -> TokenUsage | None:
    """What an event counts; None where it counts nothing. Without usage (llama.cpp before its last event) the timings
    have the counts.
    """
    if usage is not None and (usage.prompt_tokens or usage.completion_tokens):  # not zeros only
        details, more = usage.prompt_tokens_details, usage.completion_tokens_details
        completion = usage.completion_tokens or 0
        return TokenUsage(
            usage.prompt_tokens,
            completion,
            usage.prompt_tokens + completion,
            details.cached_tokens if details is not None else None,
            more.reasoning_tokens if more is not None else None,
        )
    if timings is not None and timings.prompt_n is not None and timings.predicted_n is not None:
        read = timings.prompt_n + (timings.cache_n or 0)
        return TokenUsage(read, timings.predicted_n, read + timings.predicted_n, timings.cache_n)
    return None


def _prompt_usage(usage: _Usage | None) -> TokenUsage | None:
    """The prompt's part of vLLM's usage so far, which does not say yet how much of it was cached."""
    return (
        TokenUsage(usage.prompt_tokens, 0, usage.prompt_tokens) if usage is not None and usage.prompt_tokens else None
    )


def _logprobs(logprobs: _Logprobs, alternatives: int) -> list[TokenLogprob] | None:
    """Map the log probabilities of a choice, in either shape; None where there are none."""
    if logprobs.content:
        return [token_logprob(entry, alternatives) for entry in logprobs.content]
    if not logprobs.tokens:
        return None
    tokens = []
    for position, token in enumerate(logprobs.tokens):
        logprob = logprobs.token_logprobs[position] if position < len(logprobs.token_logprobs) else 0.0
        top = (logprobs.top_logprobs[position] if position < len(logprobs.top_logprobs) else None) or {}
        if logprob is None:  # of the first token of an echoed prompt there is none
            logprob = 0.0 if position else math.nan
        ranked = sorted(top.items(), key=lambda item: -item[1])[:alternatives]
        others = [TokenLogprob(token=other, logprob=value) for other, value in ranked]
        tokens.append(TokenLogprob(token=token, logprob=logprob, alternatives=others))
    return tokens
