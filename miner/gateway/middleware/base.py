"""What a request passes on its way to the service: each check is a Stage, and `create_app` takes a list of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from miner.core.wire import LLMChunk
    from miner.gateway.apis.base import Call
    from miner.gateway.context import Exchange
    from miner.gateway.state import Gateway

__all__ = ["Stage", "Stages"]


class Stage:
    """Something that stands between a request and its answer. A subclass overrides the moments that it needs.

    To refuse, raise a RefusedError (or another MinerError); the client gets it in the shape of its dialect. Per
    request the moments come in the order of the methods below; `leave` comes always, once, also when a stage before
    refused or the client hung up.
    """

    async def start(self, gateway: Gateway) -> None:
        """The server starts: read files, start tasks."""

    async def stop(self, gateway: Gateway) -> None:
        """The server stops."""

    def problem(self) -> str | None:
        """Why requests cannot be served at the moment, for `/readyz`; None: they can."""
        return None

    def check(self, exchange: Exchange) -> None:
        """The head of the request is here and its route is known. Cheap things only."""

    async def admit(self, exchange: Exchange) -> None:
        """The same moment, for checks that wait. The body has not been read."""

    async def enter(self, exchange: Exchange, call: Call) -> None:
        """The body is parsed and the service is about to be asked: look at the model, wait for a turn."""

    def batch(self, exchange: Exchange, batch: list[LLMChunk]) -> None:
        """A batch of a stream came. Microseconds count here."""

    def leave(self, exchange: Exchange) -> None:
        """The answer is out, or nobody waits for it any more: give back what was taken, count, log."""


class Stages:
    """Stages sorted by the moments that they really override, so that the others cost nothing."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.all = tuple(stages)
        self.checks = tuple(s.check for s in stages if type(s).check is not Stage.check)
        self.admits = tuple(s.admit for s in stages if type(s).admit is not Stage.admit)
        self.enters = tuple(s.enter for s in stages if type(s).enter is not Stage.enter)
        self.batches = tuple(s.batch for s in stages if type(s).batch is not Stage.batch)
        self.leaves = tuple(s.leave for s in reversed(stages) if type(s).leave is not Stage.leave)
