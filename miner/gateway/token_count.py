"""The number of tokens of a prompt that is not sent."""

from __future__ import annotations

from typing import Any

from miner.errors import UnsupportedFeatureError
from miner.gateway.context import RequestContext
from miner.gateway.dialect import Call
from miner.gateway.errors import RefusedError


async def count_tokens(context: RequestContext, call: Call, **arguments: Any) -> int:
    """Return what `LLMService.count_tokens` does with these arguments; errors name the client's fields.

    Raises:
        RefusedError: 501: the backend cannot count tokens.
    """
    service = context.gateway.service
    try:
        with call.names.translate_errors():
            return await service.count_tokens(**arguments)
    except UnsupportedFeatureError as error:
        if error.param != "count_tokens":
            raise
        raise RefusedError(
            501, "unsupported_feature", f"{service.backend_of(call.model).name} cannot count tokens.",
            hint="See usage of a response.",
        ) from error  # fmt: skip
