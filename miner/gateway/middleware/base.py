"""What a request passes on its way to the service; `create_app` takes a list of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from miner.core.wire import LLMChunk
    from miner.gateway.apis.base import Call
    from miner.gateway.context import RequestContext
    from miner.gateway.state import Gateway

__all__ = ["Middleware", "MiddlewareStack"]


class Middleware:
    """Something that stands between a request and its answer. A subclass overrides the moments that it needs.

    To refuse, raise a RefusedError (or another MinerError); the client gets it in the shape of its dialect. Per
    request the hooks run in the order of the methods below; `leave` always runs, once, also when a middleware before
    refused or the client hung up.
    """

    async def start(self, gateway: Gateway) -> None:
        """The server starts: read files, start tasks."""

    async def stop(self, gateway: Gateway) -> None:
        """The server stops."""

    def problem(self) -> str | None:
        """Why requests cannot be served at the moment, for `/readyz`; None: they can."""
        return None

    def check(self, context: RequestContext) -> None:
        """The head of the request is here and its route is known. Cheap things only."""

    async def admit(self, context: RequestContext) -> None:
        """The same moment, for checks that wait. The body has not been read."""

    async def enter(self, context: RequestContext, call: Call) -> None:
        """The body is parsed and the service is about to be asked: look at the model, wait for a turn."""

    def batch(self, context: RequestContext, batch: list[LLMChunk]) -> None:
        """A batch of a stream came. Microseconds count here."""

    def leave(self, context: RequestContext) -> None:
        """The answer is out, or nobody waits for it any more: give back what was taken, count, log."""


class MiddlewareStack:
    """MiddlewareStack sorted by the moments that they really override, so that the others cost nothing."""

    def __init__(self, middleware: Sequence[Middleware]) -> None:
        self.all = tuple(middleware)
        self.checks = tuple(s.check for s in middleware if type(s).check is not Middleware.check)
        self.admits = tuple(s.admit for s in middleware if type(s).admit is not Middleware.admit)
        self.enters = tuple(s.enter for s in middleware if type(s).enter is not Middleware.enter)
        self.batches = tuple(s.batch for s in middleware if type(s).batch is not Middleware.batch)
        self.leaves = tuple(s.leave for s in reversed(middleware) if type(s).leave is not Middleware.leave)
