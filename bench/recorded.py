"""The bytes that the replay server sends: recorded streams of any length.

The frames are recorded; their text is repeated, and for tool calls and JSON Schema replaced by valid JSON, which the
small recorded model did not write.
"""

from __future__ import annotations

import json
from typing import Any

from tests.servers.captures import Capture, capture

__all__ = ["SCHEMA", "TEXT", "TOOL", "VLLM_MODELS", "Answer", "ollama_answers", "vllm_answers"]

TEXT = [f" {word}" for word in "The capital of France is Paris and it lies on the river Seine today".split()]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"places": {"type": "array", "items": {"type": "string", "minLength": 1}}},
    "required": ["places"],
    "additionalProperties": False,
}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather of all of these places", "parameters": SCHEMA},
}
VLLM_MODELS = ("plain", "tools", "schema")
"""The model name selects the kind of response."""

Answer = tuple[bytes, list[bytes]]
"""Header of the HTTP response, and its body chunks."""


def _json_pieces(count: int) -> list[str]:
    """A JSON text of exactly `count` pieces of the size of tokens."""
    pieces = ['{"', "places", '":', " ["]
    while len(pieces) < count - 4:
        pieces += ['"', "Paris", '",', " "]
    pieces = pieces[: count - 4 - (count - 4) % 4] if len(pieces) > count - 4 else pieces
    pieces += ['"', "Lyon", '"', "]}"]
    # What is missing to the exact number goes in as white space.
    return pieces + ["\n"] * (count - len(pieces))


def _head(recorded: Capture, length: int | None) -> bytes:
    headers = dict(recorded.headers)
    headers.pop("content-length", None)
    if length is None:
        headers["transfer-encoding"] = "chunked"
    else:
        headers.pop("transfer-encoding", None)
        headers["content-length"] = str(length)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 20:00:00 GMT\r\n{lines}\r\n".encode()


def _chunked(pieces: list[bytes]) -> list[bytes]:
    return [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces] + [b"0\r\n\r\n"]


def _sse(event: Any) -> bytes:
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


def _complete(recorded: Capture, body: Any = None) -> Answer:
    raw = recorded.body if body is None else json.dumps(body, separators=(",", ":")).encode()
    return _head(recorded, len(raw)), [raw]


def _vllm_stream(name: str, pieces: list[str]) -> Answer:
    recorded = capture("vllm", name)
    events = recorded.events
    tools = "tools" in name
    first = events[:2] if tools else events[:1]
    pattern = next(event for event in events[len(first) :] if event["choices"])
    finish, usage = events[-2], events[-1]
    finish["choices"][0]["delta"] = {}
    finish["choices"][0]["finish_reason"] = "tool_calls" if tools else "stop"
    usage["usage"] = {"prompt_tokens": 37, "total_tokens": 37 + len(pieces), "completion_tokens": len(pieces)}
    sent = [_sse(event) for event in first]
    for piece in pieces:
        delta = pattern["choices"][0]["delta"]
        if tools:
            delta["tool_calls"][0]["function"]["arguments"] = piece
        else:
            delta["content"] = piece
        sent.append(_sse(pattern))
    return _head(recorded, None), _chunked([*sent, _sse(finish), _sse(usage), b"data: [DONE]\n\n"])


def vllm_answers(chunks: int) -> dict[str, Answer]:
    """By kind: streams `plain`, `tools`, `schema` of `chunks` chunks of text, `chat`, `models`."""
    text = [TEXT[i % len(TEXT)] for i in range(chunks)]
    models = capture("vllm", "models")
    listed = models.json
    listed["data"] = [{**listed["data"][0], "id": name, "root": f"/models/{name}"} for name in VLLM_MODELS]
    return {
        "plain": _vllm_stream("chat_stream", text),
        "tools": _vllm_stream("chat_tools_required_stream", _json_pieces(chunks)),
        "schema": _vllm_stream("chat_schema_stream", _json_pieces(chunks)),
        "chat": _complete(capture("vllm", "chat")),
        "models": _complete(models, listed),
    }


def ollama_answers(chunks: int) -> dict[str, Answer]:
    """By kind: `plain`, a stream of `chunks` chunks of text; `chat`, `show`, `tags`."""
    recorded = capture("ollama", "chat_stream")
    pattern, last = recorded.lines[0], recorded.lines[-1]
    lines = []
    for i in range(chunks):
        pattern["message"]["content"] = TEXT[i % len(TEXT)]
        lines.append(json.dumps(pattern, separators=(",", ":")).encode() + b"\n")
    last["eval_count"] = chunks
    lines.append(json.dumps(last, separators=(",", ":")).encode() + b"\n")
    return {
        "plain": (_head(recorded, None), _chunked(lines)),
        "chat": _complete(capture("ollama", "chat")),
        "show": _complete(capture("ollama", "show")),
        "tags": _complete(capture("ollama", "tags")),
    }
