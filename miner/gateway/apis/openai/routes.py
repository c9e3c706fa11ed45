"""OpenAI's API as a table."""

from __future__ import annotations

from miner.gateway.apis.openai.chat import OpenAIChat
from miner.gateway.apis.openai.completions import completions
from miner.gateway.apis.openai.embeddings import embeddings
from miner.gateway.apis.openai.errors import openai_error
from miner.gateway.apis.openai.rerank import rerank
from miner.gateway.apis.openai.responses.dialect import OpenAIResponses
from miner.gateway.apis.openai.responses.schema import ResponseRequest
from miner.gateway.apis.openai.schema import ChatCompletionRequest, CompletionRequest, EmbeddingRequest, RerankRequest
from miner.gateway.context import Route
from miner.gateway.generation import generation_handler

_JSON_OR_EVENTS = ("application/json", "text/event-stream")

OPENAI = [
    Route(
        "POST", "/v1/chat/completions", generation_handler(OpenAIChat()), "key", openai_error,
        "Create a chat completion, streamed or not", ChatCompletionRequest, _JSON_OR_EVENTS,
    ),
    Route(
        "POST", "/v1/completions", completions, "key", openai_error,
        "Create a completion of a prompt, past the chat template", CompletionRequest, _JSON_OR_EVENTS,
    ),
    Route(
        "POST", "/v1/responses", generation_handler(OpenAIResponses()), "key", openai_error,
        "Create a model response, streamed or not; nothing is stored", ResponseRequest, _JSON_OR_EVENTS,
    ),
    Route("POST", "/v1/embeddings", embeddings, "key", openai_error, "Create embeddings", EmbeddingRequest),
    Route("POST", "/v1/rerank", rerank, "key", openai_error, "Sort documents by relevance to a query", RerankRequest),
]  # fmt: skip
