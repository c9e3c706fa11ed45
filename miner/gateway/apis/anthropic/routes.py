"""Anthropic's API as a table."""

from __future__ import annotations

from miner.gateway.apis.anthropic.batches import (
    MessageBatchRequest,
    batches_list,
    cancel_batch,
    create_batch,
    delete_batch,
    one_batch,
    results,
)
from miner.gateway.apis.anthropic.errors import ID_HEADER, anthropic_error
from miner.gateway.apis.anthropic.messages import count_tokens, messages
from miner.gateway.apis.anthropic.schema import AnthropicCountTokensRequest, AnthropicMessagesRequest
from miner.gateway.context import Route

ANTHROPIC = [
    Route(
        "POST", "/v1/messages", messages, "key", anthropic_error,
        "Create a message, streamed or not", AnthropicMessagesRequest,
        ("application/json", "text/event-stream"), id_header=ID_HEADER,
    ),
    Route(
        "POST", "/v1/messages/count_tokens", count_tokens, "key", anthropic_error,
        "Count the tokens in a message", AnthropicCountTokensRequest, id_header=ID_HEADER,
    ),
    *(
        Route(
            method, f"/v1/messages/batches{path}", handler, "key", anthropic_error, summary, body, id_header=ID_HEADER,
            always=method == "GET" or bool(path),  # rows that run do not keep their client from looking at them
        )
        for method, path, handler, summary, body in (
            ("POST", "", create_batch, "Create a batch of messages", MessageBatchRequest),
            ("GET", "", batches_list, "List batches of messages, the newest first", None),
            ("GET", "/{batch}", one_batch, "Retrieve a batch of messages", None),
            ("POST", "/{batch}/cancel", cancel_batch, "Cancel a batch of messages", None),
            ("DELETE", "/{batch}", delete_batch, "Delete a batch of messages that has ended", None),
        )
    ),
    Route(
        "GET", "/v1/messages/batches/{batch}/results", results, "key", anthropic_error,
        "The results of a batch, one JSON object a line", content_types="application/x-jsonl", id_header=ID_HEADER,
        always=True,
    ),
]  # fmt: skip
