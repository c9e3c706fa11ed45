"""Between Ollama's wire form and that of llama.cpp's server: pure functions, modelled on the recorded responses."""

from __future__ import annotations

import json
import random
import string
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

__all__ = ["Counts", "Pieces", "Refusal", "go_json", "messages_for", "now", "sampling_for", "structure_for"]

KINDS: dict[str, tuple[str, type | tuple[type, ...]]] = {
    **dict.fromkeys(
        ("num_ctx", "num_predict", "num_keep", "num_batch", "num_gpu", "main_gpu", "num_thread"),
        ("integer", (int, float)),
    ),
    **dict.fromkeys(("top_k", "seed", "repeat_last_n", "draft_num_predict"), ("integer", (int, float))),
    **dict.fromkeys(("temperature", "top_p", "min_p", "typical_p", "repeat_penalty"), ("float32", (int, float))),
    **dict.fromkeys(("presence_penalty", "frequency_penalty"), ("float32", (int, float))),
    "use_mmap": ("boolean", bool),
    "stop": ("array", list),
}
DEFAULTS = {
    "temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.0, "typical_p": 1.0, "repeat_penalty": 1.0,
    "repeat_last_n": 64, "presence_penalty": 0.0, "frequency_penalty": 0.0,
}  # fmt: skip


class Refusal(Exception):
    """A response with an error in it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def go_json(value: Any) -> bytes:
    """JSON as Go writes it: compact, with the characters that mean something in HTML escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text.encode()


def now() -> str:
    """The time as Ollama writes it, in nanoseconds."""
    nanoseconds = time.time_ns()
    return f"{datetime.fromtimestamp(nanoseconds // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds % 10**9:09d}Z"


def sampling_for(options: dict[str, Any], num_ctx: int) -> dict[str, Any]:
    """llama.cpp's fields for Ollama's options; unknown names are dropped, as Ollama does."""
    for name, value in options.items():
        kind, types = KINDS.get(name, ("", object))
        if not isinstance(value, types) or (isinstance(value, bool) and kind in {"integer", "float32"}):
            raise Refusal(500, f'option "{name}" must be of type {kind}')
    known = {name: options.get(name, default) for name, default in DEFAULTS.items()}
    known["typ_p"] = known.pop("typical_p")
    limit = int(options.get("num_predict", -1))
    known["max_tokens"] = limit if limit > 0 else 10 * num_ctx
    if "seed" in options:
        known["seed"] = int(options["seed"])
    if options.get("stop"):
        known["stop"] = options["stop"]
    return known


def structure_for(form: Any, *, chat: bool) -> dict[str, Any]:
    """llama.cpp's fields for Ollama's `format`."""
    if form in (None, ""):
        return {}
    if form != "json" and not isinstance(form, dict):
        raise Refusal(
            500, f'invalid format: {json.dumps(json.dumps(form))}; expected "json" or a valid JSON Schema object'
        )
    if not chat:
        return {"json_schema": {"type": "object"} if form == "json" else form}
    if form == "json":
        return {"response_format": {"type": "json_object"}}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "format", "schema": form}}}


def messages_for(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """OpenAI's messages for Ollama's; a message with an unknown role is dropped, as Ollama does."""
    told: list[dict[str, Any]] = []
    calls: list[str] = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            kind = "array into Go struct field ChatRequest.messages.content of type string"
            raise Refusal(400, f"json: cannot unmarshal {kind}")
        if message.get("images"):
            error = {
                "code": 400,
                "message": "Multimodal data provided, but model does not support multimodal requests.",
            }
            raise Refusal(400, go_json({"error": error | {"type": "invalid_request_error"}}).decode())
        if message.get("role") not in {"system", "user", "assistant", "tool"}:
            continue
        item: dict[str, Any] = {"role": message["role"], "content": content or ""}
        if message.get("thinking"):
            item["reasoning_content"] = message["thinking"]
        if message.get("tool_calls"):
            item["tool_calls"] = [
                _call_for(call, f"call_{len(told)}_{at}") for at, call in enumerate(message["tool_calls"])
            ]
            calls = [call["id"] for call in item["tool_calls"]]
        if message["role"] == "tool":
            item["tool_call_id"] = message.get("tool_call_id") or (calls.pop(0) if calls else "call_0")
            item["name"] = message.get("tool_name", "")
        told.append(item)
    return told


def _call_for(call: dict[str, Any], name: str) -> dict[str, Any]:
    function = call["function"]
    arguments = json.dumps(function.get("arguments") or {}, ensure_ascii=False)
    return {
        "id": call.get("id") or name,
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


@dataclass
class Counts:
    """What the last line tells; durations in nanoseconds."""

    done_reason: str = ""
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0

    def fields(self, began: int, **more: Any) -> dict[str, Any]:
        """The fields after `done`, in Ollama's order, those that are zero or empty left out."""
        durations = {name: value for name, value in vars(self).items() if name != "done_reason"}
        told = {"done_reason": self.done_reason, **more, "total_duration": time.monotonic_ns() - began, **durations}
        return {name: value for name, value in told.items() if value}


@dataclass
class Pieces:
    """Reads llama.cpp's events one by one; each `feed` gives the parts of Ollama's messages that are complete."""

    counts: Counts
    _call: dict[str, Any] | None = None
    _index: int = -1
    _told: int = 0
    finished: bool = field(default=False)

    def feed(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        """Parts, each with some of content, thinking, tool_calls and logprobs."""
        if "error" in event:
            error = event["error"]
            said = error.get("message", error) if isinstance(error, dict) else error
            raise Refusal(500, f"an error was encountered while running the model: {said}")
        self._count(event)
        parts: list[dict[str, Any]] = []
        for choice in event.get("choices", [])[:1]:
            delta = choice.get("delta") or {"content": choice.get("text")}
            part = {"content": delta.get("content"), "thinking": delta.get("reasoning_content")}
            part["logprobs"] = [_logprob(item) for item in (choice.get("logprobs") or {}).get("content") or []]
            if any(part.values()):
                parts.append({name: value for name, value in part.items() if value})
            for call in delta.get("tool_calls") or []:
                parts += self._collect(call)
            if choice.get("finish_reason"):
                parts += self._flush()
                self.finished = True
                self.counts.done_reason = "length" if choice["finish_reason"] == "length" else "stop"
        return parts

    def _count(self, event: dict[str, Any]) -> None:
        if usage := event.get("usage"):
            self.counts.prompt_eval_count = usage["prompt_tokens"]
            self.counts.eval_count = usage["completion_tokens"]
        if timings := event.get("timings"):
            self.counts.prompt_eval_duration = int(timings["prompt_ms"] * 1000) * 1000
            self.counts.eval_duration = int(timings["predicted_ms"] * 1000) * 1000

    def _collect(self, call: dict[str, Any]) -> list[dict[str, Any]]:
        parts = self._flush() if call.get("index", 0) != self._index else []
        self._index = call.get("index", 0)
        function = call.get("function") or {}
        if self._call is None:
            self._call = {"name": function.get("name", ""), "arguments": ""}
        self._call["arguments"] += function.get("arguments") or ""
        return parts

    def _flush(self) -> list[dict[str, Any]]:
        """The call that is complete now; one that was cut short vanishes, as it does in Ollama."""
        call, self._call = self._call, None
        if call is None:
            return []
        try:
            arguments = json.loads(call["arguments"])
        except ValueError:
            return []
        name = "call_" + "".join(random.choices(string.ascii_lowercase + string.digits, k=8))
        function = {"index": self._told, "name": call["name"], "arguments": arguments}
        self._told += 1
        return [{"tool_calls": [{"id": name, "function": function}]}]


def _logprob(item: dict[str, Any]) -> dict[str, Any]:
    told = {name: item[name] for name in ("token", "logprob", "bytes")}
    if item.get("top_logprobs"):
        told["top_logprobs"] = [_logprob(other) for other in item["top_logprobs"]]
    return told
