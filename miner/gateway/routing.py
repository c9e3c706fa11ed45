"""Routes as data: who may call what, in which dialect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from aiohttp import web

    from miner.gateway.apis.base import ErrorShape
    from miner.gateway.context import RequestContext

__all__ = ["Access", "Handler", "Route"]

Access = Literal["open", "key", "admin"]
"""open: anybody; key: who has a key, once there are keys; admin: a key with that right, or, without keys, whoever sits
at this machine while nobody else can call."""
Handler = Callable[["RequestContext"], Awaitable["web.StreamResponse"]]


@dataclass(frozen=True, slots=True)
class Route:
    """One method on one path."""

    method: str
    path: str
    """As aiohttp writes it: `/v1/models/{model:.+}`."""
    handler: Handler
    access: Access
    errors: ErrorShape
    """How this dialect writes an error."""
    summary: str = ""
    """One line for the OpenAPI document."""
    body: type | None = None
    """The struct that reads its body."""
    answers: str | tuple[str, ...] = "application/json"
    """Content types of its answer."""
    always: bool = False
    """Answered also while the server shuts down."""
    id_header: str | None = None
    """Where this dialect's clients look for the id of a request, besides `X-Request-Id`."""
