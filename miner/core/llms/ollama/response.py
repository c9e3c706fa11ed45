"""Responses of Ollama's native API: streamed lines mapped to chunks, and non-streaming responses decoded."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final, TypeVar

import msgspec
from msgspec import Struct

from miner.core._typing import override
from miner.core.http.client import ByteStream, HttpResponse
from miner.core.http.errors import Upstream, interrupted, parse_error_body
from miner.core.http.framing import NDJSONDecoder
from miner.core.llms.contract.reply_reader import ReplyMapper, read_chunks
from miner.core.llms.contract.sampling import EngineLogprob, token_logprob
from miner.core.llms.contract.stream import Batches
from miner.core.llms.ollama.errors import error_in_stream, ollama_error
from miner.core.wire import ChatRequest, FinishReason, LLMChunk, Timings, TokenUsage, ToolCall
from miner.errors import BackendProtocolError, MinerError

logger = logging.getLogger("miner.reply")

T = TypeVar("T")

_NANOSECONDS = 1e-9
_FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "load": "stop", "unload": "stop"}
_REPETITION_LIMIT = 30
"""Equal tokens after which Ollama ends a reply; one more may have been sent."""
_LONGEST_TOKEN = 64


class _Message(Struct, gc=False):
    content: str = ""
    thinking: str = ""
    tool_calls: list[dict[str, Any]] | None = None


class Line(Struct, gc=False):
    """One line of a stream, or a non-streaming response. Ollama omits fields that are zero."""

    message: _Message | None = None
    response: str | None = None
    thinking: str = ""
    done: bool = False
    done_reason: str | None = None
    error: Any = None
    logprobs: list[EngineLogprob] | None = None
    prompt_eval_count: int = 0
    eval_count: int = 0
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_duration: int = 0
    eval_duration: int = 0
    context: list[int] | None = None


decode_line: Final = msgspec.json.Decoder(Line).decode


class _LineMapper(ReplyMapper[Line]):
    """Maps the lines of one reply to chunks."""

    __slots__ = ("_alternatives", "_calls", "_last_pieces", "_token_limit")

    first_byte: ClassVar[bytes] = b"{"

    def __init__(self, request: ChatRequest) -> None:
        super().__init__(request.stop)
        self._token_limit = request.token_limit
        self._alternatives = request.logprobs or 0
        self._calls = 0
        self._last_pieces: deque[str] = deque(maxlen=_REPETITION_LIMIT)

    @override
    def stop_chunk(self, matched: str | None) -> LLMChunk:
        # Without usage: Ollama sends it in its last line only, which is not awaited.
        if self._calls:
            return LLMChunk(finish_reason="tool_calls")
        return LLMChunk(finish_reason="stop", stop_sequence=matched)

    @override
    def chunk(self, line: Line, /) -> LLMChunk | None:
        message = line.message
        if message is not None:
            content, thinking, calls = message.content, message.thinking, message.tool_calls
        else:
            content, thinking, calls = line.response or "", line.thinking, None
        if not line.done:
            self._last_pieces.append(content or thinking)
        if not line.done and not calls and line.logprobs is None:
            # Nearly every line: a piece of text and nothing else.
            if not content and not thinking:
                return None
            self.delivered = True
            return LLMChunk(content or None, thinking or None)
        chunk = LLMChunk(content or None, thinking or None)
        if calls:
            chunk.tool_calls = [self._call(call) for call in calls]
        if line.logprobs:
            chunk.logprobs = [token_logprob(entry, self._alternatives) for entry in line.logprobs]
        if chunk.content or chunk.reasoning or chunk.tool_calls:
            self.delivered = True
        if line.done:
            self._finish(line, chunk)
        return chunk

    def _call(self, call: dict[str, Any]) -> ToolCall:
        """Map a tool call, which is always complete; its arguments are an object."""
        function = call.get("function") or {}
        index, self._calls = self._calls, self._calls + 1
        arguments = msgspec.json.encode(function.get("arguments") or {}).decode()
        return {
            "index": index,
            "id": call.get("id") or f"call_{index}",
            "type": "function",
            "function": {"name": function.get("name") or "", "arguments": arguments},
        }

    def _finish(self, line: Line, chunk: LLMChunk) -> None:
        self.ended = True
        reason = _FINISH.get(line.done_reason or "stop", "unknown")
        if reason == "unknown":
            logger.warning("Unknown done_reason of Ollama: %.80r.", line.done_reason)
        if self._calls and reason == "stop":
            reason = "tool_calls"
        chunk.finish_reason, chunk.context = reason, line.context
        tokens = line.eval_count
        if line.prompt_eval_count or tokens:
            chunk.usage = TokenUsage(line.prompt_eval_count, tokens, line.prompt_eval_count + tokens)
            chunk.context_exhausted = reason == "length" and tokens < self._token_limit
        chunk.timings = Timings(
            load=line.load_duration * _NANOSECONDS,
            prefill=line.prompt_eval_duration * _NANOSECONDS,
            decode=line.eval_duration * _NANOSECONDS,
        )
        if not self.delivered and tokens > 8:
            self.lost = (
                f"it counted {tokens} tokens and delivered none (done_reason {line.done_reason!r}): its tool parser "
                "dropped a call that is truncated, or of a tool that was not offered"
            )

    @override
    def finish(self, out: list[LLMChunk]) -> None:
        """Append held-back text, and the end of a reply that Ollama ended because the model repeated itself."""
        self.flush(out)
        if not self.ended and is_repetition(self._last_pieces):
            self.ended = True
            out.append(LLMChunk(finish_reason="repetition"))

    @override
    def check_complete(self, upstream: Upstream) -> None:
        """Raise the error of a reply that was truncated or lost.

        Raises:
            StreamInterruptedError: its last line (`done: true`) was not received.
            BackendProtocolError: Ollama counted tokens that it did not deliver.
        """
        if not self.ended:
            raise interrupted(f"{upstream.label} closed the stream before it was complete.", upstream, 200)
        if self.lost is not None:
            hint = "Raise max_tokens, or leave tools out."
            raise upstream.error(BackendProtocolError, f"lost the reply: {self.lost}.", status=200, hint=hint)


def read_lines(response: ByteStream, request: ChatRequest, upstream: Upstream) -> Batches:
    """The chunks of a streamed reply, in the batches in which they arrived."""

    def error_of(payload: bytes, delivered: bool) -> MinerError:
        return error_in_stream(parse_error_body(payload), upstream, delivered=delivered)

    return read_chunks(response, NDJSONDecoder(), decode_line, _LineMapper(request), error_of, upstream)


def is_repetition(pieces: Iterable[str]) -> bool:
    """Whether a reply ends with the same token over and over. A non-streaming reply is judged by the end of its text.

    After 30 tokens that are equal but for white space Ollama ends the reply without its last line (`done: true`) and
    without an error, streamed or not (llm/llama_server.go; captures chat_repetition*). Every other reply without its
    last line was cut.
    """
    texts = list(pieces)
    if len(texts) != 1:
        return len(texts) >= _REPETITION_LIMIT and len({text.strip() for text in texts[-_REPETITION_LIMIT:]}) == 1
    text = "".join(texts[0].split())
    longest = min(_LONGEST_TOKEN, len(text) // _REPETITION_LIMIT)
    return any(text.endswith(text[-size:] * _REPETITION_LIMIT) for size in range(1, longest + 1))


def decode_response(
    response: HttpResponse, upstream: Upstream, decode: Callable[[bytes], T], model: str | None = None
) -> T:
    """Decode the body of a successful response.

    Args:
        model: the one that the request named, if any.

    Raises:
        MinerError: the status is not 200, or `decode` cannot read the body.
    """
    if response.status != 200:
        retry_after = response.headers.get("Retry-After")
        raise ollama_error(response.status, parse_error_body(response.body), upstream, model, retry_after)
    try:
        return decode(response.body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise upstream.protocol_error(f"sent an invalid response: {error}.", status=200) from error
