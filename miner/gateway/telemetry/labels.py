"""What a request is counted as, and why it failed, in the conventions' words."""

from __future__ import annotations

from miner.gateway.context import RequestContext
from miner.gateway.errors import failure_of
from miner.gateway.telemetry import conventions as names

_OPERATIONS = {
    "/v1/embeddings": names.EMBEDDINGS, "/api/embed": names.EMBEDDINGS, "/api/embeddings": names.EMBEDDINGS,
    "/v1/completions": names.TEXT_COMPLETION, "/api/generate": names.TEXT_COMPLETION, "/v1/rerank": names.RERANK,
}  # fmt: skip
"""Route -> operation; all others are `chat`."""


def operation_of(context: RequestContext) -> str:
    """What a request wants of a model, in the conventions' words."""
    return _OPERATIONS.get(context.route.canonical or context.route.path, names.CHAT)


def error_type(context: RequestContext) -> str:
    """Why a request failed, in the conventions' sense: an error code, or "cancelled"; "": it did not."""
    if context.disconnected:
        return names.CANCELLED
    return failure_of(context.error).code if context.error is not None else ""


def model_of(context: RequestContext) -> str:
    """The name under which a request is counted: the model's own where the operator has named the models."""
    if context.rules.names and context.rules.name is not None:
        return context.served or context.rules.name
    name = context.call.model if context.call is not None else None
    return name or context.gateway.service.rules_of(None).name or "default"
