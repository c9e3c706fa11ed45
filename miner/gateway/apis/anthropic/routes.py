"""Anthropic's API as a table."""

from __future__ import annotations

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
]  # fmt: skip
