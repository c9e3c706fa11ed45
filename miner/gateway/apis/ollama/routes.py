"""Ollama's API as a table."""

from __future__ import annotations

from miner.gateway.apis.ollama.dialect import OllamaChat, OllamaGenerate
from miner.gateway.apis.ollama.embed import embed, embeddings
from miner.gateway.apis.ollama.errors import ollama_error
from miner.gateway.apis.ollama.management import add_blob, copy, create, delete, has_blob, push
from miner.gateway.apis.ollama.models import ps, root, show, tags, version
from miner.gateway.apis.ollama.pull import pull
from miner.gateway.apis.ollama.schema import (
    OllamaChatRequest,
    OllamaCopyRequest,
    OllamaCreateRequest,
    OllamaDeleteRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
    OllamaPullRequest,
    OllamaPushRequest,
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
    Route(
        "POST", "/api/create", create, "admin", ollama_error, "Make a model from another one", OllamaCreateRequest,
        _LINES,
    ),
    Route("POST", "/api/copy", copy, "admin", ollama_error, "Give a model another name", OllamaCopyRequest),
    Route("DELETE", "/api/delete", delete, "admin", ollama_error, "Delete a model", OllamaDeleteRequest),
    Route("POST", "/api/push", push, "admin", ollama_error, "Refused: there is no registry", OllamaPushRequest),
    Route("HEAD", "/api/blobs/{digest}", has_blob, "key", ollama_error, "Whether a file was uploaded"),
    Route("POST", "/api/blobs/{digest}", add_blob, "admin", ollama_error, "Upload a file to make a model from"),
]  # fmt: skip
