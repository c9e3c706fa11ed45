"""Which recorded response fits a request that no test has chosen one for."""

from __future__ import annotations

import json
from typing import Any

from tests.servers.captures import Capture, capture, captures
from tests.servers.http import Request

__all__ = ["supporting", "usual"]

OLLAMA_MODELS = ("smollm2", "smollm2-tools", "smollm2-think", "smollm2-embed")
LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")

SUPPORTING = {
    "ollama": {
        "/": "root",
        "/api/tags": "tags",
        "/api/ps": "ps_loaded",
        "/api/version": "version",
        "/v1/models": "v1_models",
    },
    "vllm": {"/v1/models": "models", "/health": "health", "/version": "version"},
    "llamacpp": {
        "/v1/models": "models",
        "/models": "models",
        "/health": "health",
        "/v1/health": "health",
        "/props": "props",
        "/slots": "slots",
    },
}
"""Routes that only tell something; queued responses are not spent on them."""

UNAUTHORIZED = {
    "vllm": {"error": "Unauthorized"},
    "llamacpp": {"error": {"message": "Invalid API Key", "type": "authentication_error", "code": 401}},
}


def supporting(engine: str, request: Request, api_key: str | None) -> Capture | None:
    """The response to a request that generates nothing; None if it should generate."""
    refusal = _refusal(engine, request, api_key)
    if refusal is not None:
        return refusal
    if request.method in {"GET", "HEAD"}:
        name = SUPPORTING[engine].get(request.path)
        if name is not None:
            return capture(engine, name)
        known = {item.path for item in captures(engine).values() if item.method != "GET"}
        return capture(engine, "unknown_method" if engine == "ollama" and request.path in known else "unknown_path")
    if engine == "ollama" and request.path == "/api/show":
        name = _base(request.json)
        if name == "pirate":  # what `create_from` made
            return capture(engine, "show_created")
        return capture(
            engine, name.replace("smollm2", "show").replace("-", "_") if name in OLLAMA_MODELS else "show_unknown"
        )
    if engine == "vllm" and request.path == "/tokenize":
        return capture(engine, "tokenize")
    if engine == "llamacpp" and request.path in {"/v1/chat/completions/input_tokens", "/tokenize"}:
        return capture(engine, "input_tokens" if "input" in request.path else "tokenize")
    return None


def usual(engine: str, request: Request) -> Capture:
    """The capture of exactly this request if there is one, else of one like it."""
    body = request.json
    for item in captures(engine).values():
        same_host = item.request_headers.get("host") is None
        if item.method == request.method and item.path == request.path and item.request == body and body and same_host:
            return item
    if not isinstance(body, dict):
        unread = {"ollama": "err_json" if request.body else "err_empty_body"}.get(engine, "err_json")
        return capture(engine, unread)
    name = _ollama(request, body) if engine == "ollama" else _openai(engine, request, body)
    return capture(engine, name)


def _refusal(engine: str, request: Request, api_key: str | None) -> Capture | None:
    host = request.headers.get("host", "127.0.0.1").rsplit(":", 1)[0]
    if engine == "ollama" and host not in LOCAL_HOSTS:
        return capture(engine, "err_host")
    guarded = request.path.startswith("/v1/") if engine == "vllm" else request.path != "/health"
    if (
        api_key is None
        or engine == "ollama"
        or not guarded
        or request.headers.get("authorization") == f"Bearer {api_key}"
    ):
        return None
    body = json.dumps(UNAUTHORIZED[engine], separators=(",", ":")).encode()
    return Capture("unauthorized", engine, 401, {"content-type": "application/json"}, (body,))


def _base(body: Any) -> str:
    return str(body.get("model", "")).removesuffix(":latest") if isinstance(body, dict) else ""


def _ollama(request: Request, body: dict[str, Any]) -> str:
    model, stream = _base(body), "_stream" if request.streams else ""
    if request.path == "/api/embed":
        return _ollama_embed(model, body)
    if request.path == "/api/generate":
        if model not in OLLAMA_MODELS:
            return "err_model_generate"
        if model == "smollm2-embed":
            return "generate_on_embed_model"
        if not body.get("prompt"):
            return "load"
        if body.get("raw"):
            return f"generate_raw{stream}"
        return "generate_schema" if body.get("format") and not stream else f"generate{stream}"
    if request.path != "/api/chat":
        others = {
            "/api/pull": "pull_stream" if stream else "pull_nostream",
            "/api/copy": "copy",
            "/api/delete": "delete",
        }
        return others.get(request.path, "unknown_path")
    if not body.get("model"):
        return "err_model_missing"
    if model not in OLLAMA_MODELS:
        return "err_model"
    if model == "smollm2-embed":
        return "chat_on_embed_model"
    if body.get("messages") == [] and body.get("keep_alive") == 0:
        return "unload"
    if body.get("tools"):
        return f"chat_tools{stream}" if model == "smollm2-tools" else "chat_tools_refused"
    if body.get("think") and model != "smollm2-think":
        return "chat_think_refused"
    if body.get("think", True) and model == "smollm2-think":
        return f"chat_think{stream}"
    if body.get("format"):
        return "chat_json_mode" if body["format"] == "json" and not stream else f"chat_schema{stream}"
    return f"chat_logprobs{stream}" if body.get("logprobs") else f"chat{stream}"


def _ollama_embed(model: str, body: dict[str, Any]) -> str:
    if model not in OLLAMA_MODELS:
        return "embed_unknown"
    if model != "smollm2-embed":
        return "embed_on_chat_model"
    if body.get("dimensions"):
        return "embed_dimensions"
    texts = body.get("input")
    return "embed_one" if isinstance(texts, str) or len(texts or []) == 1 else "embed" if texts else "embed_empty"


def _openai(engine: str, request: Request, body: dict[str, Any]) -> str:
    stream = "_stream" if request.streams else ""
    if engine == "vllm" and body.get("model") not in {None, "smollm2"}:
        return "err_model"
    if request.path == "/v1/embeddings":
        return "err_embeddings"
    if request.path == "/v1/completions":
        return f"completion{stream}"
    if request.path != "/v1/chat/completions":
        return "unknown_path"
    if "messages" not in body:
        return "err_messages_missing"
    if body.get("tools") and body.get("tool_choice") != "none":
        return f"chat_tools_required{stream}"
    if body.get("response_format"):
        return f"chat_schema{stream}"
    if body.get("return_progress") and stream:
        return "chat_progress_stream"
    return f"chat_logprobs{stream}" if body.get("logprobs") else f"chat{stream}"
