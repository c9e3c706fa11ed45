"""Middleware: what every request passes on its way to the service; `create_app` takes a list of them."""

from __future__ import annotations

from miner.core.wire import LLMChunk
from miner.gateway.context import RequestContext
from miner.gateway.dialect import Call
from miner.gateway.state import Gateway

__all__ = ["Middleware"]


class Middleware:
    """Hooks around a request. A subclass overrides those that it needs.

    To refuse a request, raise a RefusedError (or another MinerError); the client gets it in the format of its dialect.
    Per request the hooks run in the order of the methods below, for each in the order of the list; only `on_finish`
    runs in reverse, and always, once, also when another hook refused or the client left.
    """

    checks_sender = False
    """Whether `on_request` and `before_body` look at the connection and the key of a request. They are left out where
    the gateway itself sends a request for a client, such as a row of a batch: its caller is set already."""

    async def on_startup(self, gateway: Gateway) -> None:
        """Called at start: read files, start tasks, add to `gateway.readiness_checks`."""

    async def on_cleanup(self, gateway: Gateway) -> None:
        """Called after the server has stopped."""

    def on_request(self, context: RequestContext) -> None:
        """Called when the headers are read and the route is known. Cheap checks only."""

    async def before_body(self, context: RequestContext) -> None:
        """The same, for checks that wait. The body has not been read."""

    async def before_call(self, context: RequestContext, call: Call) -> None:
        """Called when the body is parsed, before the service is called: check the model, wait for a slot."""

    def on_chunks(self, context: RequestContext, chunks: list[LLMChunk]) -> None:
        """Called for each batch of a stream. Microseconds count here."""

    def on_finish(self, context: RequestContext) -> None:
        """Called when the response is complete, or its client has disconnected: release, count, log."""
