"""llama.cpp's own routes as a table: those of llama-server that OpenAI's API does not have, or has otherwise."""

from __future__ import annotations

from dataclasses import replace

from aiohttp import web

from miner.core.llms.contract.backend import Backend
from miner.gateway.apis.llamacpp.completion import native_completion
from miner.gateway.apis.llamacpp.errors import chat_error, llamacpp_error
from miner.gateway.apis.llamacpp.schema import (
    ApplyTemplateRequest,
    DetokenizeRequest,
    InfillRequest,
    NativeCompletionRequest,
    NativeEmbeddingRequest,
    NativeRerankRequest,
    TokenizeRequest,
)
from miner.gateway.apis.llamacpp.tools import health, lora_adapters, models, native, props, slots, tokenize
from miner.gateway.apis.openai.completions import completions
from miner.gateway.apis.openai.embeddings import embeddings
from miner.gateway.apis.openai.rerank import rerank
from miner.gateway.apis.openai.routes import OPENAI
from miner.gateway.context import Handler, RequestContext, Route
from miner.gateway.model_backend import backend_of
from miner.gateway.request_body import model_named

_JSON_OR_EVENTS = ("application/json", "text/event-stream")
_BODIES: dict[str, type] = {
    "/completion": NativeCompletionRequest, "/infill": InfillRequest, "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest, "/apply-template": ApplyTemplateRequest,
    **dict.fromkeys(("/embedding", "/embeddings"), NativeEmbeddingRequest),
    **dict.fromkeys(("/rerank", "/reranking"), NativeRerankRequest),
}  # fmt: skip


def _or_else(handler: Handler, otherwise: Handler | None) -> Handler:
    """The handler; on a backend without such routes `otherwise`, where there is one."""
    if otherwise is None:
        return handler

    async def handle(context: RequestContext) -> web.StreamResponse:
        service = context.gateway.service
        backend: Backend = service
        if service.config_state is not None:  # several: the body names one
            backend = await backend_of(service, await model_named(context))
        native = backend.native_backend is not None
        return await (handler if native else otherwise)(context)

    return handle


def _generating(path: str, engine_path: str, summary: str, otherwise: Handler | None = None) -> Route:
    handler, body = _or_else(native_completion(engine_path), otherwise), _BODIES[engine_path]
    return Route("POST", path, handler, "key", llamacpp_error, summary, body, _JSON_OR_EVENTS)


def _post(path: str, summary: str, otherwise: Handler | None = None) -> Route:
    return Route("POST", path, _or_else(native(path), otherwise), "key", llamacpp_error, summary, _BODIES[path])


LLAMACPP = [
    *(
        replace(route, path="/chat/completions", errors=chat_error)
        for route in OPENAI
        if route.path == "/v1/chat/completions"
    ),
    _generating("/completion", "/completion", "Complete a prompt, in llama.cpp's form"),
    _generating("/completions", "/completion", "The same; OpenAI's form is at /v1/completions", completions),
    _generating("/infill", "/infill", "Fill a gap between two texts"),
    _post("/tokenize", "Split a text into tokens", tokenize),
    _post("/detokenize", "Join tokens to a text"),
    _post("/apply-template", "Format a conversation by the model's chat template"),
    _post("/embedding", "Embed texts, in llama.cpp's form"),
    _post("/embeddings", "The same; OpenAI's form is at /v1/embeddings", embeddings),
    _post("/rerank", "Sort documents by relevance to a query, in llama.cpp's form", rerank),
    _post("/reranking", "The same"),
    Route("GET", "/models", models, "key", llamacpp_error, "List models, in llama.cpp's form"),
    Route("GET", "/props", props, "key", llamacpp_error, "The properties of a model's engine"),
    Route("GET", "/slots", slots, "key", llamacpp_error, "What the slots of a model's engine do"),
    Route("GET", "/lora-adapters", lora_adapters, "key", llamacpp_error, "The adapters of a model's engine"),
    Route("GET", "/health", health, "open", llamacpp_error, "Whether a request could be served now", always=True),
    Route("GET", "/v1/health", health, "open", llamacpp_error, "The same", always=True),
]
