"""OpenAI's chat and completion wire, as vLLM and llama.cpp really write it, and its mapping to chunks.

One mapper serves the streamed and the whole reply, so that both say the same. What differs between the engines is
small: the name of the reasoning field, where the finish reason stands, llama.cpp's `timings` and `prompt_progress`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from miner.core.llms.contract.sampling import EngineLogprob, token_logprob
from miner.core.llms.contract.stop_strings import StopWatcher
from miner.core.llms.contract.tools import arguments_parse
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

__all__ = ["ChatMapper", "Event", "decode_event"]

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
    tool_calls: list[_Call] | None = None


class _Logprobs(Struct):
    content: list[EngineLogprob] | None = None
    tokens: list[str] | None = None
    """This one and the next two: the legacy arrays of vLLM's /v1/completions."""
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] = []


class _Choice(Struct, gc=False):
    index: int = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    """vLLM: the stop string, or the id of the stop token, that ended the reply."""
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
    """llama.cpp's own clock, milliseconds."""

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
    """One event of a stream, or a whole answer."""

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


class ChatMapper:
    """Turns the events of one reply into chunks.

    Args:
        watched: stop strings that the engine was not told of.

    Attributes:
        aborted: the engine gave up on the request (vLLM's finish reason "abort", with status 200).
        finished: the finish reason that has come.
        delivered: any text, thought or call has come.
        lost: a problem with the finished reply, in words; None if there is none.
    """

    __slots__ = (
        "_alternatives",
        "_arguments",
        "_calls",
        "_max_tokens",
        "_stops",
        "_timings",
        "_usage",
        "_watch",
        "aborted",
        "delivered",
        "finished",
        "lost",
        "model",
        "progress",
    )

    def __init__(self, request: ChatRequest, watched: Sequence[str] = ()) -> None:
        self._watch = StopWatcher(watched) if watched else None
        self._max_tokens = request.max_tokens
        self._alternatives = request.logprobs or 0
        self._stops = request.stop
        self._calls = 0
        self._usage: _Usage | None = None
        self._timings: _EngineTimings | None = None
        self._arguments: dict[int, list[str]] = {}
        self.progress = request.progress
        self.aborted = False
        self.finished: FinishReason | None = None
        self.delivered = False
        self.lost: str | None = None
        self.model: str | None = None

    def feed(self, event: Event, out: list[LLMChunk]) -> bool:
        """Put the chunks that come of an event; whether a watched stop string ended the reply."""
        chunk = self.chunk(event)
        if chunk is None:
            return False
        watch = self._watch
        if watch is None:
            out.append(chunk)
            return False
        if not watch.feed(chunk, out):
            return False
        reason = self._finish("stop")
        out.append(LLMChunk(finish_reason=reason, stop_sequence=watch.matched if reason == "stop" else None))
        return True

    def flush(self, out: list[LLMChunk]) -> None:
        """Put the text that was held back: no more comes."""
        if self._watch is not None:
            self._watch.flush(out)

    def chunk(self, event: Event) -> LLMChunk | None:
        """The chunk for an event; None where it says nothing.

        Usage and timings wait for `close`: a server may send them with every piece.
        """
        if event.usage is not None:
            self._usage = event.usage
        if event.timings is not None:
            self._timings = event.timings
        if not event.choices:
            return self._progress(event)
        choice = event.choices[0]
        if choice.index:  # of several that `extra` asked for, the first counts: they interleave, in any order
            others = [one for one in event.choices if not one.index]
            if not others:
                return None
            choice = others[0]
        delta = choice.delta or choice.message
        content = choice.text if delta is None else delta.content
        reasoning = None if delta is None else delta.reasoning or delta.reasoning_content
        calls = None if delta is None else delta.tool_calls
        if choice.finish_reason is None and choice.logprobs is None and event.prompt_progress is None:
            # The way of nearly every event: a piece of text or of a call, and nothing else.
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
            bare = [index for index, pieces in self._arguments.items() if not any(pieces)]
            if bare and chunk.finish_reason == "tool_calls":  # tools that take none: JSON all the same
                ends = [{"index": index, "function": {"arguments": "{}"}} for index in bare]
                chunk.tool_calls = [*(chunk.tool_calls or ()), *ends]
        return chunk if chunk != _EMPTY else None

    def _progress(self, event: Event) -> LLMChunk | None:
        """How far the prompt is read, where the caller wants to know."""
        progress = event.prompt_progress
        if progress is None or not self.progress:
            return None
        return LLMChunk(progress=Progress(progress.processed, progress.total))

    def close(self, out: list[LLMChunk]) -> None:
        """Put usage and timings of the reply that has ended, where the server sent them."""
        chunk = LLMChunk()
        usage, timings = self._usage, self._timings
        if usage is not None and (usage.prompt_tokens or usage.completion_tokens):  # a server that counts nothing
            details, more = usage.prompt_tokens_details, usage.completion_tokens_details
            completion = usage.completion_tokens or 0
            chunk.usage = TokenUsage(
                usage.prompt_tokens,
                completion,
                usage.prompt_tokens + completion,
                details.cached_tokens if details is not None else None,
                more.reasoning_tokens if more is not None else None,
            )
        elif timings is not None and timings.prompt_n is not None and timings.predicted_n is not None:
            # llama.cpp, left at a stop string before its usage came.
            read = timings.prompt_n + (timings.cache_n or 0)
            chunk.usage = TokenUsage(read, timings.predicted_n, read + timings.predicted_n, timings.cache_n)
        if chunk.usage is not None:
            completion = chunk.usage.completion_tokens
            # Cut before max_tokens: only a full context does that.
            chunk.context_exhausted = self.finished == "length" and completion < self._max_tokens
            if self.lost is None and not self.delivered and completion > 8 and not self._stops:
                self.lost = f"it counted {completion} tokens and delivered none of them"
        if timings is not None and timings.predicted_ms is not None:
            chunk.timings = Timings(prefill=(timings.prompt_ms or 0.0) / 1000, decode=timings.predicted_ms / 1000)
        if chunk != _EMPTY:
            out.append(chunk)

    def _call(self, call: _Call) -> ToolCall:
        """One call or a piece of one. Whole answers carry no index: their order is it."""
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

    def _finish(self, said: str) -> FinishReason | None:
        if said == "abort":
            self.aborted = True
            return None
        reason: FinishReason = _FINISH.get(said, "unknown")
        if reason == "unknown":
            logger.warning("The engine ended a reply with a finish_reason that is not known here: %.80r.", said)
        if reason == "tool_calls" and not self._calls:
            self.lost = "it says that it called a tool, and sent no call"
        if self._calls and (reason == "stop" or (reason == "length" and self._calls_complete())):
            # vLLM says "stop" after a call that was asked for by name, llama.cpp "length" after complete ones.
            reason = "tool_calls"
        self.finished = reason
        return reason

    def _calls_complete(self) -> bool:
        """Whether the arguments of all calls so far are whole JSON objects."""
        return all(
            arguments_parse({"function": {"arguments": "".join(pieces) or "{"}}) for pieces in self._arguments.values()
        )


_EMPTY = LLMChunk()


def _logprobs(told: _Logprobs, alternatives: int) -> list[TokenLogprob] | None:
    """The tokens of a choice, in either shape; None where there are none."""
    if told.content:
        return [token_logprob(entry, alternatives) for entry in told.content]
    if not told.tokens:
        return None
    tokens = []
    for place, token in enumerate(told.tokens):
        logprob = told.token_logprobs[place] if place < len(told.token_logprobs) else None
        top = (told.top_logprobs[place] if place < len(told.top_logprobs) else None) or {}
        ranked = sorted(top.items(), key=lambda item: -item[1])[:alternatives]
        others = [TokenLogprob(token=other, logprob=value) for other, value in ranked]
        tokens.append(TokenLogprob(token=token, logprob=logprob or 0.0, alternatives=others))
    return tokens
