"""What llama.cpp's own routes share: bodies as objects that are passed on, and the refusal on another backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from miner.core.llms.contract.backend import Backend
from miner.errors import InvalidRequestError, UnsupportedFeatureError
from miner.gateway.context import RequestContext
from miner.gateway.errors import RefusedError
from miner.gateway.request_body import decode, parse_body

_OBJECT = msgspec.json.Decoder(dict[str, Any])


async def object_of(context: RequestContext) -> dict[str, Any]:
    """The body. Its fields are the engine's, which checks them."""
    return await parse_body(context, lambda raw: decode(raw, _OBJECT))


def model_of(body: dict[str, Any]) -> str | None:
    """Take the model's name out of a body: the engine behind the name serves it.

    Raises:
        InvalidRequestError: it is no string.
    """
    name = body.pop("model", None)
    if name is not None and not isinstance(name, str):
        raise InvalidRequestError(f"model must be a string, not {name!r:.80}.", param="model")
    return name or None


def backend_of(context: RequestContext) -> Backend:
    """The backend whose routes these are; of another one, the backend that says that it has none."""
    service = context.gateway.service
    return service.native_backend or service


@contextmanager
def own_errors() -> Iterator[None]:
    """Turns the refusal of a backend, or of a model, without the route into a 501."""
    try:
        yield
    except UnsupportedFeatureError as error:
        raise RefusedError(
            501, "not_supported", error.message, hint=error.hint, operator_hint=error.operator_hint
        ) from error
