"""What an engine says, in the shapes of OpenAI's API and of Ollama's own, for responses that were not recorded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tests.servers.http import Request

__all__ = [
    "DONE",
    "delta",
    "finish",
    "frame",
    "frames",
    "models",
    "non_streaming",
    "ollama_line",
    "openai_chunk",
    "openai_reply",
    "side_routes",
    "usage",
    "usage_chunk",
]

DONE = b"data: [DONE]\n\n"
STAMP = "2026-11-22T18:47:34.175917840Z"
OLLAMA_COUNTS = {
    "total_duration": 50652268,
    "load_duration": 1189944,
    "prompt_eval_count": 21,
    "prompt_eval_duration": 9000000,
    "eval_count": 8,
    "eval_duration": 40000000,
}


def usage(prompt: int = 21, completion: int = 8) -> dict[str, int]:
    """Token counts as OpenAI has them."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def openai_chunk(choices: list[dict[str, Any]], model: str = "smollm2", **extra: Any) -> dict[str, Any]:
    """One event of a chat stream."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1795373273,
        "model": model,
        "choices": choices,
    } | extra


def delta(model: str = "smollm2", finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
    """A chat stream's event with this delta."""
    return openai_chunk([{"index": 0, "delta": fields, "finish_reason": finish_reason}], model)


def finish(reason: str = "stop", model: str = "smollm2") -> dict[str, Any]:
    """The event that ends a choice."""
    return delta(model, reason)


def usage_chunk(prompt: int = 21, completion: int = 8, model: str = "smollm2") -> dict[str, Any]:
    """The event that carries the counts, after the last choice."""
    return openai_chunk([], model, usage=usage(prompt, completion))


def openai_reply(text: str, model: str = "smollm2", finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    """A whole chat response."""
    said = {"role": "assistant", "content": text} | message
    choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": finish_reason}
    return openai_chunk([choice], model) | {"object": "chat.completion", "usage": usage()}


def ollama_line(
    request: Request, text: str, *, done: bool = False, model: str = "smollm2", **extra: Any
) -> dict[str, Any]:
    """One line of /api/chat or /api/generate; the last one carries the counts."""
    said = (
        {"response": text} if request.path == "/api/generate" else {"message": {"role": "assistant", "content": text}}
    )
    tail = {"done": True, "done_reason": "stop", **OLLAMA_COUNTS} if done else {"done": False}
    return {"model": model, "created_at": STAMP, **said, **tail, **extra}


def is_ollama(request: Request) -> bool:
    """Whether the request is in Ollama's own API."""
    return request.path.startswith("/api/")


def asked_model(request: Request) -> str:
    """The model that the request names."""
    return str((request.json or {}).get("model", "smollm2"))


def frame(request: Request, payload: dict[str, Any]) -> bytes:
    """The payload as one SSE event, or as one line where Ollama was asked."""
    text = json.dumps(payload, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b"\n" if is_ollama(request) else b"data: " + text + b"\n\n"


def frames(request: Request, texts: Iterable[str], *, end: bool = True, model: str | None = None) -> list[bytes]:
    """A stream of these texts in the request's dialect; without `end` it lacks finish reason, counts and end mark."""
    model = model or asked_model(request)
    if is_ollama(request):
        lines = [ollama_line(request, text, model=model) for text in texts]
        last = [ollama_line(request, "", done=True, model=model)] if end else []
        return [frame(request, line) for line in lines + last]
    if request.path == "/v1/completions":
        events = [openai_chunk([{"index": 0, "text": text, "finish_reason": None}], model) for text in texts]
        last = [openai_chunk([{"index": 0, "text": "", "finish_reason": "stop"}], model)]
    else:
        events = [delta(model, role="assistant", content=""), *(delta(model, content=text) for text in texts)]
        last = [finish(model=model)]
    if ((request.json or {}).get("stream_options") or {}).get("include_usage"):
        last.append(usage_chunk(model=model))
    marks = [*(frame(request, event) for event in last), DONE] if end else []
    return [frame(request, event) for event in events] + marks


def non_streaming(request: Request, text: str, model: str | None = None) -> dict[str, Any]:
    """The whole response, not streamed."""
    model = model or asked_model(request)
    if is_ollama(request):
        return ollama_line(request, text, done=True, model=model)
    if request.path == "/v1/completions":
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": "stop"}
        return openai_chunk([choice], model) | {"object": "text_completion", "usage": usage()}
    return openai_reply(text, model)


def models(names: Iterable[str], context: int = 2048, owner: str = "test") -> dict[str, Any]:
    """`/v1/models`, with the fields of vLLM and of llama.cpp."""
    data = [
        {
            "id": name,
            "aliases": [name],
            "object": "model",
            "created": 1795354896,
            "owned_by": owner,
            "root": name,
            "parent": None,
            "max_model_len": context,
            "meta": {
                "n_ctx": context,
                "n_ctx_train": context,
                "n_params": 134515008,
                "size": 96576768,
                "ftype": "Q4_1",
            },
        }
        for name in names
    ]
    return {"object": "list", "data": data}


def side_routes(
    request: Request, names: list[str], context: int = 2048, owner: str = "test"
) -> dict[str, Any] | str | None:
    """The responses to what a client asks before it generates; None for anything else."""
    details = {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "134.52M",
        "quantization_level": "Q4_1",
    }
    tags = [
        {
            "name": f"{name}:latest",
            "model": f"{name}:latest",
            "modified_at": STAMP,
            "size": 98362919,
            "digest": "f" * 64,
            "details": details,
        }
        for name in names
    ]
    loaded = [tag | {"expires_at": STAMP, "size_vram": 0, "context_length": context} for tag in tags]
    caps = {
        "supports_tools": True,
        "supports_tool_calls": True,
        "supports_parallel_tool_calls": True,
        "supports_system_role": True,
    }
    known: dict[str, dict[str, Any] | str] = {
        "/": "Ollama is running",
        "/health": {"status": "ok"},
        "/version": {"version": "0.32.0"},
        "/v1/models": models(names, context, owner),
        "/props": {
            "default_generation_settings": {"n_ctx": context},
            "total_slots": 4,
            "model_alias": names[0],
            "chat_template": "{{ messages }}",
            "chat_template_caps": caps,
            "modalities": {"vision": False, "audio": False},
            "is_sleeping": False,
        },
        "/slots": {"slots": []},
        "/api/version": {"version": "0.33.0"},
        "/api/tags": {"models": tags},
        "/api/ps": {"models": loaded},
    }
    if request.method in {"GET", "HEAD"}:
        return known.get(request.path)
    if request.path == "/api/show":
        info = {"general.architecture": "llama", "llama.context_length": context, "llama.embedding_length": 576}
        return {
            "details": details,
            "model_info": info,
            "capabilities": ["completion", "tools"],
            "modified_at": STAMP,
            "template": "",
        }
    return None
