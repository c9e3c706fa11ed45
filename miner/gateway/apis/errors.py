"""Which API a path belongs to, whether it has a route or not: the form of its errors."""

from __future__ import annotations

import re
from typing import NamedTuple

from miner.gateway.apis.anthropic.errors import ID_HEADER, anthropic_error
from miner.gateway.apis.ollama.errors import ollama_error
from miner.gateway.apis.openai.errors import openai_error
from miner.gateway.dialect import ErrorShape

_SLASHES = re.compile("/{2,}")


class Api(NamedTuple):
    """The paths of one API."""

    prefix: str
    errors: ErrorShape
    id_header: str | None = None
    """Where its clients look for the id of a request, besides `X-Request-Id`."""


APIS = (
    Api("/api/", ollama_error), Api("/v1/messages", anthropic_error, ID_HEADER),
    Api("/messages", anthropic_error, ID_HEADER), Api("/", openai_error),
)  # fmt: skip
"""The first whose prefix matches wins."""


def error_shape_of(path: str) -> ErrorShape:
    """The form in which clients of a path expect an error."""
    path = _SLASHES.sub("/", path)
    return next((api.errors for api in APIS if path.startswith(api.prefix)), openai_error)
