"""OpenAI's API as a table."""

from __future__ import annotations

from miner.gateway.apis.openai.audio import SpeechRequest, TranscriptionForm, audio
from miner.gateway.apis.openai.batches import BatchRequest, batches_list, cancel_batch, create_batch, one_batch
from miner.gateway.apis.openai.chat import OpenAIChat, chat_input_tokens
from miner.gateway.apis.openai.completions import completions
from miner.gateway.apis.openai.embeddings import embeddings
from miner.gateway.apis.openai.errors import openai_error
from miner.gateway.apis.openai.files import FileForm, content, delete_file, files_list, one_file, upload
from miner.gateway.apis.openai.rerank import rerank
from miner.gateway.apis.openai.responses.endpoints import (
    cancel,
    compact,
    create,
    delete,
    input_items,
    input_tokens,
    retrieve,
)
from miner.gateway.apis.openai.responses.schema import ResponseRequest
from miner.gateway.apis.openai.schema import ChatCompletionRequest, CompletionRequest, EmbeddingRequest, RerankRequest
from miner.gateway.context import Route
from miner.gateway.generation import generation_handler

_JSON_OR_EVENTS = ("application/json", "text/event-stream")
_AUDIO_TEXT = ("application/json", "text/plain", "text/event-stream")
_FORM = "multipart/form-data"

OPENAI = [
    Route(
        "POST", "/v1/chat/completions", generation_handler(OpenAIChat()), "key", openai_error,
        "Create a chat completion, streamed or not", ChatCompletionRequest, _JSON_OR_EVENTS,
    ),
    Route(
        "POST", "/v1/chat/completions/input_tokens", chat_input_tokens, "key", openai_error,
        "Count the tokens of a conversation", ChatCompletionRequest,
    ),
    Route(
        "POST", "/v1/completions", completions, "key", openai_error,
        "Create a completion of a prompt, past the chat template", CompletionRequest, _JSON_OR_EVENTS,
    ),
    Route(
        "POST", "/v1/responses", create, "key", openai_error,
        "Create a model response, streamed, not streamed, or in the background", ResponseRequest, _JSON_OR_EVENTS,
    ),
    Route(
        "POST", "/v1/responses/input_tokens", input_tokens, "key", openai_error,
        "Count the input tokens that a response would have", ResponseRequest,
    ),
    Route(
        "POST", "/v1/responses/compact", compact, "key", openai_error,
        "Summarize a conversation into an item that stands for it", ResponseRequest,
    ),
    # These generate nothing, and a client whose background response is its one concurrent request has to read it.
    Route(
        "GET", "/v1/responses/{id}", retrieve, "key", openai_error,
        "Retrieve a stored response, or follow one of the background", content_types=_JSON_OR_EVENTS,
        always=True,
    ),
    Route("DELETE", "/v1/responses/{id}", delete, "key", openai_error, "Delete a stored response", always=True),
    Route(
        "POST", "/v1/responses/{id}/cancel", cancel, "key", openai_error, "Cancel a background response",
        always=True,
    ),
    Route(
        "GET", "/v1/responses/{id}/input_items", input_items, "key", openai_error,
        "List the input items of a stored response", always=True,
    ),
    Route("POST", "/v1/embeddings", embeddings, "key", openai_error, "Create embeddings", EmbeddingRequest),
    Route("POST", "/v1/rerank", rerank, "key", openai_error, "Sort documents by relevance to a query", RerankRequest),
    Route(
        "POST", "/v1/files", upload, "key", openai_error, "Upload a file: the requests of a batch", FileForm,
        body_type="multipart/form-data",
    ),
    # As with responses: rows that run do not keep their client from looking at them.
    Route("GET", "/v1/files", files_list, "key", openai_error, "List files, the newest first", always=True),
    Route("GET", "/v1/files/{file}", one_file, "key", openai_error, "Retrieve a file's description", always=True),
    Route("DELETE", "/v1/files/{file}", delete_file, "key", openai_error, "Delete a file", always=True),
    Route(
        "GET", "/v1/files/{file}/content", content, "key", openai_error, "Download a file",
        content_types="application/octet-stream", always=True,
    ),
    Route("POST", "/v1/batches", create_batch, "key", openai_error, "Create a batch of requests", BatchRequest),
    Route("GET", "/v1/batches", batches_list, "key", openai_error, "List batches, the newest first", always=True),
    Route("GET", "/v1/batches/{batch}", one_batch, "key", openai_error, "Retrieve a batch", always=True),
    Route("POST", "/v1/batches/{batch}/cancel", cancel_batch, "key", openai_error, "Cancel a batch", always=True),
    Route(
        "POST", "/v1/audio/transcriptions", audio("/audio/transcriptions", form=True), "key", openai_error,
        "Transcribe speech, on a backend that does", TranscriptionForm, _AUDIO_TEXT, body_type=_FORM,
    ),
    Route(
        "POST", "/v1/audio/translations", audio("/audio/translations", form=True), "key", openai_error,
        "Translate speech to English text, on a backend that does", TranscriptionForm, _AUDIO_TEXT, body_type=_FORM,
    ),
    Route(
        "POST", "/v1/audio/speech", audio("/audio/speech", form=False), "key", openai_error,
        "Speak a text, on a backend that does", SpeechRequest, ("audio/*", "application/json", "text/event-stream"),
    ),
]  # fmt: skip
