"""The names of OpenTelemetry's semantic conventions that are used here: the one place to change when they change.

The conventions for generative AI are still "development" there and rename things; those for HTTP are stable. No other
module spells these names: a test looks for them.
"""

from __future__ import annotations

from typing import Final

GEN_AI_VERSION: Final = "0.1.0"
"""Release of the conventions for generative AI (semantic-conventions-genai) that the names follow."""
CORE_VERSION: Final = "1.45.0"
"""Release of the other conventions (semantic-conventions), on which that one builds."""

# What a request to a model is.

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
OUTPUT_TYPE: Final = "gen_ai.output.type"

CHAT: Final = "chat"
TEXT_COMPLETION: Final = "text_completion"
EMBEDDINGS: Final = "embeddings"
RERANK: Final = "rerank"
"""Not in the conventions, which have no word for it: a value of our own, as they allow."""

JSON_OUTPUT: Final = "json"
TEXT_OUTPUT: Final = "text"

# What it asks for.

REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
REQUEST_CHOICES: Final = "gen_ai.request.choice.count"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
REQUEST_TOP_P: Final = "gen_ai.request.top_p"
REQUEST_TOP_K: Final = "gen_ai.request.top_k"
REQUEST_SEED: Final = "gen_ai.request.seed"
REQUEST_FREQUENCY_PENALTY: Final = "gen_ai.request.frequency_penalty"
REQUEST_PRESENCE_PENALTY: Final = "gen_ai.request.presence_penalty"
REQUEST_STOP: Final = "gen_ai.request.stop_sequences"
REQUEST_REASONING: Final = "gen_ai.request.reasoning.level"
REQUEST_PREVIOUS: Final = "gen_ai.request.previous_response.id"

# What came back.

RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
RESPONSE_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
USAGE_INPUT: Final = "gen_ai.usage.input_tokens"
USAGE_OUTPUT: Final = "gen_ai.usage.output_tokens"
USAGE_CACHE_READ: Final = "gen_ai.usage.cache_read.input_tokens"
USAGE_REASONING: Final = "gen_ai.usage.reasoning.output_tokens"

CANCELLED: Final = "cancelled"
"""The type of the error of a request whose client has left: a value of our own."""
FINISHED_BY_ERROR: Final = "error"
"""The finish reason of a choice that broke off."""

# HTTP, and what is true of both.

ERROR_TYPE: Final = "error.type"
HTTP_METHOD: Final = "http.request.method"
HTTP_ROUTE: Final = "http.route"
HTTP_STATUS: Final = "http.response.status_code"
HTTP_OTHER_METHOD: Final = "_OTHER"
"""The method of a request whose own is not one of HTTP's."""
URL_PATH: Final = "url.path"
URL_SCHEME: Final = "url.scheme"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
CLIENT_ADDRESS: Final = "client.address"
SERVICE_NAME: Final = "service.name"
SERVICE_VERSION: Final = "service.version"

# Metrics.

SERVER_REQUEST_DURATION: Final = "gen_ai.server.request.duration"
SERVER_TIME_TO_FIRST_TOKEN: Final = "gen_ai.server.time_to_first_token"
SERVER_TIME_PER_OUTPUT_TOKEN: Final = "gen_ai.server.time_per_output_token"
USED_INPUT: Final = "gen_ai.client.inference.usage.input_tokens"
USED_OUTPUT: Final = "gen_ai.client.inference.usage.output_tokens"
USED_CACHE_READ: Final = "gen_ai.client.inference.usage.cache_read.input_tokens"
USED_REASONING: Final = "gen_ai.client.inference.usage.reasoning.output_tokens"
INPUT_PER_REQUEST: Final = "gen_ai.client.inference.operation.input_tokens"
OUTPUT_PER_REQUEST: Final = "gen_ai.client.inference.operation.output_tokens"
EMBEDDED_PER_REQUEST: Final = "gen_ai.client.embeddings.operation.input_tokens"
TOKEN_MODALITY: Final = "gen_ai.token.modality"
UNKNOWN_MODALITY: Final = "unknown"
"""Engines count the tokens of images and sounds with those of the text."""
HTTP_REQUEST_DURATION: Final = "http.server.request.duration"

TOKEN_USAGE: Final = "gen_ai.client.token.usage"
"""Of the conventions before 0.1.0 (semantic-conventions 1.41), with its attribute: dashboards still read it."""
TOKEN_TYPE: Final = "gen_ai.token.type"

DURATION_BUCKETS: Final = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
)  # fmt: skip
"""Of `gen_ai.server.request.duration`, in seconds, as the conventions want them."""
FIRST_TOKEN_BUCKETS: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
"""Of `gen_ai.server.time_to_first_token`."""
OUTPUT_TOKEN_BUCKETS: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
"""Of `gen_ai.server.time_per_output_token`."""
TOKEN_BUCKETS: Final = (
    1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0, 16777216.0,
    67108864.0,
)  # fmt: skip
"""Of tokens per request."""
HTTP_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Of `http.server.request.duration`."""
