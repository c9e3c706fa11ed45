"""Ollama's native wire: the body of a chat or generate request, its lines, and their mapping to chunks.

Facts are those of Ollama's source of 2026-08-21 and of answers recorded from it.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any, Final

import msgspec
from msgspec import Struct

from miner.core.llms.contract.capabilities import nearest_level
from miner.core.llms.contract.extra import merge_extra
from miner.core.llms.contract.images import base64_of
from miner.core.llms.contract.sampling import EngineLogprob, token_logprob, top_k_of
from miner.core.llms.contract.stop_strings import StopWatcher
from miner.core.llms.ollama.repetition import RUN, is_run
from miner.core.llms.schema.support import format_schema
from miner.core.wire import (
    ChatRequest,
    FinishReason,
    LLMChunk,
    Message,
    Timings,
    TokenUsage,
    ToolCall,
)
from miner.errors import UnsupportedFeatureError

__all__ = ["Line", "LineMapper", "decode_line", "request_body"]

logger = logging.getLogger("miner.reply")


class _Message(Struct, gc=False):
    content: str = ""
    thinking: str = ""
    tool_calls: list[dict[str, Any]] | None = None


class Line(Struct, gc=False):
    """One line of a stream, or a whole answer. Fields with value zero are left out on the wire."""

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


decode_line: Final = msgspec.json.Decoder(Line).decode

_NANOSECONDS = 1e-9
_THINK_LEVELS = ("low", "medium", "high")
_FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "load": "stop", "unload": "stop"}
_OPTION_NAMES = (
    "seed", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty",
)  # fmt: skip


def request_body(request: ChatRequest, *, num_ctx: int | None, thinks: bool) -> tuple[str, dict[str, Any]]:
    """Path and JSON body.

    Args:
        num_ctx: context length that every request asks for; a different one would make Ollama load the model again.
        thinks: whether the model can think; on others `think` is an error.
    """
    options: dict[str, Any] = {
        "num_predict": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        # Always sent, since the defaults differ by engine and by model file; these switch each off.
        "top_k": top_k_of(request), "min_p": 0.0, "repeat_penalty": 1.0,
        "presence_penalty": 0.0, "frequency_penalty": 0.0,
    }  # fmt: skip
    for name in _OPTION_NAMES:
        value = getattr(request, name)
        if value is not None:
            options[name] = value
    # Stop strings are not sent: they are watched for on our side (stop.py).
    if num_ctx is not None:
        options["num_ctx"] = num_ctx
    body: dict[str, Any] = {
        "model": request.model,
        "stream": True,
        "options": options,
        # Without these two Ollama cuts the prompt, and forgets its beginning, silently.
        "truncate": False,
        "shift": False,
    }
    if thinks:
        level = nearest_level(request, _THINK_LEVELS)
        body["think"] = True if level is None else level
    if request.logprobs is not None:
        body["logprobs"] = True
        body["top_logprobs"] = max(1, request.logprobs)  # without alternatives nothing comes; they are left out again
    if request.keep_alive is not None:
        body["keep_alive"] = request.keep_alive
    if (wanted := request.response_format) is not None:
        body["format"] = "json" if wanted.schema is None else format_schema(request, bounds=False).schema
    if request.raw:
        body["prompt"] = request.prompt
        body["raw"] = True
        path = "/api/generate"
    else:
        body["messages"] = _messages(request.as_messages())
        if request.tools is not None and request.tool_choice != "none":
            body["tools"] = request.tools
        path = "/api/chat"
    merge_extra(body, request.extra)
    return path, body


def _messages(messages: list[Message]) -> list[dict[str, Any]]:
    """Ollama's form: text only as content, images apart, arguments as objects, tools' turns with the tool's name."""
    if messages[-1].role == "assistant":
        raise UnsupportedFeatureError(
            "ollama does not say whether it continues an assistant's turn: that depends on the model's template.",
            param=f"messages[{len(messages) - 1}].role",
            hint="End with a user's or a tool's turn.",
        )
    names: dict[str, str] = {}
    turns = []
    for place, message in enumerate(messages):
        turn: dict[str, Any] = {"role": message.role, "content": message.text()}
        images = []
        for part in message.images():
            data = base64_of(part.image_url.url)
            if data is None:
                raise UnsupportedFeatureError(
                    "ollama takes images as data: URLs only.", param=f"messages[{place}].content"
                )
            images.append(data)
        if images:
            turn["images"] = images
        if message.reasoning is not None:
            turn["thinking"] = message.reasoning
        if message.tool_calls:
            turn["tool_calls"] = [_sent_call(call) for call in message.tool_calls]
            names.update({call["id"]: call["function"]["name"] for call in message.tool_calls if call.get("id")})
        if message.role == "tool":
            turn["tool_call_id"] = message.tool_call_id
            name = message.name or names.get(message.tool_call_id or "")
            if name:
                turn["tool_name"] = name
        turns.append(turn)
    return turns


def _sent_call(call: ToolCall) -> dict[str, Any]:
    function = call["function"]
    sent: dict[str, Any] = {
        "function": {"name": function["name"], "arguments": msgspec.json.decode(function.get("arguments") or "{}")}
    }
    if call.get("id"):
        sent["id"] = call["id"]
    return sent


class LineMapper:
    """Turns the lines of one reply into chunks.

    Attributes:
        finished: the last line has come.
        lost: a problem with the finished reply, in words; None if there is none.
    """

    __slots__ = ("_alternatives", "_calls", "_max_tokens", "_said", "_watch", "delivered", "finished", "lost")

    def __init__(self, request: ChatRequest) -> None:
        self._max_tokens = request.max_tokens
        self._alternatives = request.logprobs or 0
        self._watch = StopWatcher(request.stop) if request.stop else None
        self._calls = 0
        self._said: deque[str] = deque(maxlen=RUN)
        self.delivered = False
        self.finished = False
        self.lost: str | None = None

    def feed(self, line: Line, out: list[LLMChunk]) -> bool:
        """Put the chunks that come of a line; whether a stop string ended the reply."""
        chunk = self.chunk(line)
        if chunk is None:
            return False
        watch = self._watch
        if watch is None:
            out.append(chunk)
            return False
        if not watch.feed(chunk, out):
            return False
        # Ollama gives its counts on its own last line alone, which does not come now.
        called = self._calls > 0
        out.append(
            LLMChunk(finish_reason="tool_calls" if called else "stop", stop_sequence=None if called else watch.matched)
        )
        self.finished = True
        return True

    def flush(self, out: list[LLMChunk]) -> None:
        """Put the text that was held back: no more comes."""
        if self._watch is not None:
            self._watch.flush(out)

    def chunk(self, line: Line) -> LLMChunk | None:
        """The chunk for a line; None where it says nothing. A last line may carry text and calls too."""
        message = line.message
        if message is not None:
            content, thinking, calls = message.content, message.thinking, message.tool_calls
        else:
            content, thinking, calls = line.response or "", line.thinking, None
        if not line.done:
            self._said.append(content or thinking)
        if not line.done and not calls and line.logprobs is None:
            # The way of nearly every line: a piece of text and nothing else.
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

    def given_up(self) -> bool:
        """Whether a reply that ended without its last line did so because the model repeated itself."""
        return is_run(self._said)

    def _call(self, call: dict[str, Any]) -> ToolCall:
        """Calls come whole, one a line or several in one list; the arguments are an object."""
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
        self.finished = True
        reason = _FINISH.get(line.done_reason or "stop", "unknown")
        if reason == "unknown":
            logger.warning("Ollama ended a reply with a done_reason that is not known here: %.80r.", line.done_reason)
        if self._calls and reason == "stop":
            reason = "tool_calls"
        chunk.finish_reason = reason
        counted = line.eval_count
        if line.prompt_eval_count or counted:
            chunk.usage = TokenUsage(line.prompt_eval_count, counted, line.prompt_eval_count + counted)
            chunk.context_exhausted = reason == "length" and counted < self._max_tokens
        chunk.timings = Timings(
            load=line.load_duration * _NANOSECONDS,
            prefill=line.prompt_eval_duration * _NANOSECONDS,
            decode=line.eval_duration * _NANOSECONDS,
        )
        if not self.delivered and counted > 8:
            self.lost = (
                f"it counted {counted} tokens and delivered none of them "
                f"(done_reason {line.done_reason!r}): its tool parser swallowed a call that was cut short, "
                "or of a tool that was not offered"
            )
