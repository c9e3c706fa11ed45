"""Ollama's API as a table. Of the routes that change models only pull: no create, push, copy, delete."""

from __future__ import annotations

from miner.gateway.apis.ollama.dialect import OllamaChat, OllamaGenerate
from miner.gateway.apis.ollama.embed import embed, embeddings
from miner.gateway.apis.ollama.errors import ollama_error
from miner.gateway.apis.ollama.models import ps, root, show, tags, version
from miner.gateway.apis.ollama.pull import pull
from miner.gateway.apis.ollama.schema import (
    OllamaChatRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
    OllamaPullRequest,
    OllamaShowRequest,
)
from miner.gateway.apis.ollama.stream import STREAM_TYPE
from miner.gateway.context import Route

_LINES = ("application/json", STREAM_TYPE)

OLLAMA = [
    Route("GET", "/", root, "key", ollama_error, "Check that the server is running", content_types="text/plain"),
    Route("GET", "/api/version", version, "key", ollama_error, "Get the version of Ollama's API"),
    Route("GET", "/api/tags", tags, "key", ollama_error, "List models, the default first"),
    Route("GET", "/api/ps", ps, "key", ollama_error, "List loaded models"),
    Route("POST", "/api/show", show, "key", ollama_error, "Show a model", OllamaShowRequest),
    Route(
        "POST", "/api/chat", OllamaChat().handle, "key", ollama_error,
        "Generate a chat message; without messages, load or unload a model", OllamaChatRequest, _LINES,
    ),
    Route(
        "POST", "/api/generate", OllamaGenerate().handle, "key", ollama_error,
        "Generate a response; without a prompt, load or unload a model", OllamaGenerateRequest, _LINES,
    ),
    Route("POST", "/api/embed", embed, "key", ollama_error, "Create embeddings", OllamaEmbedRequest),
    Route(
        "POST", "/api/embeddings", embeddings, "key", ollama_error, "Create the embedding of one prompt",
        OllamaEmbeddingsRequest,
    ),
    Route("POST", "/api/pull", pull, "admin", ollama_error, "Pull a model", OllamaPullRequest, _LINES),
]  # fmt: skip
