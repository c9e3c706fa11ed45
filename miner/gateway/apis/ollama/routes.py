"""Ollama's API as a table. All that changes the server's models is pull: no create, push, copy, delete, no blobs."""

from __future__ import annotations

from miner.gateway.apis.ollama.chat import OllamaChatBody, chat
from miner.gateway.apis.ollama.common import STREAM_TYPE
from miner.gateway.apis.ollama.embed import OllamaEmbedBody, OllamaEmbeddingsBody, embed, embeddings
from miner.gateway.apis.ollama.errors import ollama_error
from miner.gateway.apis.ollama.generate import OllamaGenerateBody, generate
from miner.gateway.apis.ollama.models import OllamaShowBody, ps, root, show, tags, version
from miner.gateway.apis.ollama.pull import OllamaPullBody, pull
from miner.gateway.routing import Route

__all__ = ["OLLAMA"]

_LINES = ("application/json", STREAM_TYPE)

OLLAMA = [
    Route("HEAD", "/", root, "key", ollama_error, "Whether somebody is there", answers="text/plain"),
    Route("GET", "/", root, "key", ollama_error, "Whether somebody is there", answers="text/plain"),
    Route("GET", "/api/version", version, "key", ollama_error, "The version of Ollama's API"),
    Route("HEAD", "/api/version", version, "key", ollama_error, "The same without a body"),
    Route("GET", "/api/tags", tags, "key", ollama_error, "The models that can be named, the default first"),
    Route("HEAD", "/api/tags", tags, "key", ollama_error, "The same without a body"),
    Route("GET", "/api/ps", ps, "key", ollama_error, "The models that are loaded"),
    Route("POST", "/api/show", show, "key", ollama_error, "One model", OllamaShowBody),
    Route(
        "POST", "/api/chat", chat, "key", ollama_error,
        "A turn of a conversation; without messages, loading or unloading a model", OllamaChatBody, _LINES,
    ),
    Route(
        "POST", "/api/generate", generate, "key", ollama_error,
        "The text after a prompt; without a prompt, loading or unloading a model", OllamaGenerateBody, _LINES,
    ),
    Route("POST", "/api/embed", embed, "key", ollama_error, "One vector for each text", OllamaEmbedBody),
    Route("POST", "/api/embeddings", embeddings, "key", ollama_error, "The vector of one text", OllamaEmbeddingsBody),
    Route("POST", "/api/pull", pull, "admin", ollama_error, "Get a model", OllamaPullBody, _LINES),
]  # fmt: skip
