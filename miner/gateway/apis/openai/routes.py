"""OpenAI's API as a table."""

from __future__ import annotations

from miner.gateway.apis.openai.chat import ChatBody, OpenAIChat
from miner.gateway.apis.openai.completions import CompletionBody, completions
from miner.gateway.apis.openai.embeddings import EmbeddingBody, embeddings
from miner.gateway.apis.openai.errors import openai_error
from miner.gateway.apis.openai.models import models, one_model
from miner.gateway.apis.openai.rerank import RerankBody, rerank
from miner.gateway.apis.openai.responses.dialect import OpenAIResponses
from miner.gateway.apis.openai.responses.schema import ResponseBody
from miner.gateway.generation import generation
from miner.gateway.routing import Route

__all__ = ["OPENAI"]

_JSON_OR_EVENTS = ("application/json", "text/event-stream")

OPENAI = [
    Route(
        "POST", "/v1/chat/completions", generation(OpenAIChat()), "key", openai_error,
        "A chat completion, whole or streamed", ChatBody, _JSON_OR_EVENTS,
    ),
    Route(
        "POST", "/v1/completions", completions, "key", openai_error,
        "A completion of a bare prompt, past the chat template", CompletionBody, _JSON_OR_EVENTS,
    ),
    Route(
        "POST", "/v1/responses", generation(OpenAIResponses()), "key", openai_error,
        "A response, whole or streamed; nothing is stored", ResponseBody, _JSON_OR_EVENTS,
    ),
    Route("POST", "/v1/embeddings", embeddings, "key", openai_error, "One vector for each text", EmbeddingBody),
    Route("POST", "/v1/rerank", rerank, "key", openai_error, "Documents by how well they answer a query", RerankBody),
    Route("GET", "/v1/models", models, "key", openai_error, "The models that can be named, the default first"),
    Route("GET", "/v1/models/{model:.+}", one_model, "key", openai_error, "One model"),
]  # fmt: skip
