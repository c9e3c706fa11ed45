"""RequestContext: one request on its way through the gateway, and what is known of it so far."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from miner.config.config import config_of
from miner.core.llms.contract.images import refuse_remote
from miner.errors import InvalidRequestError, MinerError
from miner.gateway.merge import added

if TYPE_CHECKING:
    from aiohttp import web

    from miner.core.wire import LLMChunk, TokenUsage
    from miner.gateway.apis.base import Call
    from miner.gateway.routing import Route
    from miner.gateway.state import Gateway

__all__ = ["ANYBODY", "NOBODY", "OPERATOR", "Caller", "RequestContext", "new_id"]

logger = logging.getLogger("miner.gateway")

_LONGEST_NAME = 512
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    name: str
    """Of the key; for the log, never the key itself."""
    admin: bool = False
    models: frozenset[str] | None = None
    """Models that it may use; None: all."""


NOBODY = Caller("nobody", models=frozenset())
"""Who calls before a middleware has said who it is: it has no right at all."""
ANYBODY = Caller("anybody")
"""The caller where there are no keys."""
OPERATOR = Caller("anybody", admin=True)
"""The same, who sits at this machine while nobody else can call."""


def new_id() -> str:
    """32 hex digits that name something. Not a secret: the system's randomness would cost a call into it each time."""
    return f"{random.getrandbits(128):032x}"


class RequestContext:
    """One request and its answer. Times are those of the loop's clock, in seconds."""

    __slots__ = (
        "__weakref__", "began", "body_held", "body_size", "broken", "call", "caller", "chunks", "entered", "error",
        "extra_headers", "first_token_at", "gateway", "head_sent", "hung_up", "id", "ignored", "interrupted",
        "last_token_at", "left", "letters", "notes", "peer", "request", "route", "status", "streamed", "task", "usage",
    )  # fmt: skip

    def __init__(self, gateway: Gateway, route: Route, request: web.Request) -> None:
        self.gateway = gateway
        self.route = route
        self.request = request
        given = request.headers.get("X-Request-Id")
        self.id = given if given is not None and _REQUEST_ID.fullmatch(given) else new_id()
        """The client's `x-request-id` if it is a sane one, else ours."""
        self.peer = gateway.proxies.client(request.remote or "unix", request.headers)
        """Address of the client: of the connection, or behind a trusted proxy the one that it tells."""
        self.began = asyncio.get_running_loop().time()
        self.body_size = 0
        """Bytes of the body that were read."""
        self.body_held = 0
        """Of those, bytes of the budget of all bodies."""
        self.caller: Caller = NOBODY
        """Set by the middleware that reads keys."""
        self.call: Call | None = None
        """What the body asks for; None before it is parsed, and on routes without a generation."""
        self.entered: float | None = None
        """When the service was asked: what came before was reading and waiting."""
        self.first_token_at: float | None = None
        self.last_token_at: float | None = None
        self.chunks = 0
        """Pieces of the stream so far."""
        self.letters = 0
        """Characters that were generated."""
        self.usage: TokenUsage | None = None
        self.ignored: list[str] = []
        """Parameters that change nothing here; told in `x-miner-ignored-params`."""
        self.status = 0
        """HTTP status of the answer; 499: the client hung up before it."""
        self.streamed = False
        self.head_sent = False
        """The head of a streamed response is on its way: there cannot be another one."""
        self.hung_up = False
        """The client left before the answer was out."""
        self.error: MinerError | None = None
        """What went wrong, also when it did so in the middle of a stream."""
        self.broken: tuple[object, ...] = ()
        """Methods of middleware that failed while they watched the stream."""
        self.left = False
        self.task: asyncio.Task[object] | None = None
        """What `interrupt` cancels."""
        self.interrupted = False
        self.extra_headers: dict[str, str] = {}
        """What middleware add to the headers of the answer."""
        self.notes: dict[str, object] = {}
        """Whatever a middleware wants to remember between its moments."""

    def headers(self, content_type: str = "application/json") -> dict[str, str]:
        """What every answer carries."""
        headers = {
            "Content-Type": content_type, "X-Request-Id": self.id, "Server": "miner",
            "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", **self.extra_headers,
        }  # fmt: skip
        if self.route.id_header is not None:
            headers[self.route.id_header] = self.id
        if self.ignored:
            headers["X-Miner-Ignored-Params"] = ", ".join(self.ignored)
        return headers

    async def enter(self, call: Call) -> None:
        """Pass the middleware that come between the parsed body and the service."""
        self.call = call
        if call.model is not None and len(call.model) > _LONGEST_NAME:
            raise InvalidRequestError(f"model is longer than {_LONGEST_NAME} characters.", param="model")
        if call.remote_images and not config_of(self.gateway.service.config).allow_remote_images:
            raise refuse_remote(call.remote_images[0])
        for enter in self.gateway.middleware.enters:
            await enter(self, call)
        self.entered = asyncio.get_running_loop().time()
        self.gateway.began(self)

    def tokens(self, batch: list[LLMChunk]) -> None:
        """Count a batch of the stream."""
        now = asyncio.get_running_loop().time()
        if self.first_token_at is None:
            self.first_token_at = now
        self.last_token_at = self.gateway.sign_at = now
        self.chunks += len(batch)
        for chunk in batch:
            if chunk.content is not None:
                self.letters += len(chunk.content)
            elif chunk.reasoning is not None:
                self.letters += len(chunk.reasoning)
        usage = batch[-1].usage
        if usage is not None:
            several = self.call is not None and len(self.call.arguments) > 1
            self.usage = added(self.usage, usage) if several else usage
        for told in self.gateway.middleware.batches:
            try:
                told(self, batch)
            except MinerError:
                raise  # it refuses to go on
            except BaseException:  # whoever only watches breaks no stream
                if told not in self.broken:
                    self.broken = (*self.broken, told)
                    logger.exception("Request %s: %s failed; the stream goes on.", self.id, told.__qualname__)

    def leave(self) -> None:
        """The end, however it came. Idempotent."""
        if self.left:
            return
        self.left = True
        self.gateway.bodies.release(self.body_held)
        self.gateway.ended(self)
        for leave in self.gateway.middleware.leaves:
            try:
                leave(self)
            except BaseException:  # the others have to give back what they hold
                logger.exception("Request %s: %s failed.", self.id, leave.__qualname__)
        self.task = None  # its context holds this object, and would keep the body until the garbage collector comes
        if self.error is not None:
            # It has been answered and logged. Its frames are such a circle too.
            self.error = self.error.with_traceback(None)
            self.error.__context__ = None
