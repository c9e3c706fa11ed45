"""BodyBudget: how much of bodies is in memory at once, over all requests."""

from __future__ import annotations

from miner.gateway.errors import RefusedError

__all__ = ["BodyBudget"]

_FREE = 64 * 1024
"""Bytes of each body that are not counted: what ordinary requests need, so that big ones keep none of them out."""


class BodyBudget:
    """Bytes that all bodies together may hold until their requests end."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0

    def grow(self, held: int, size: int) -> int:
        """A body has this size now; returns what it holds of the budget, to be handed in again.

        Raises:
            RefusedError: 503, there is no room. Nothing has changed then.
        """
        wanted = max(0, size - _FREE)
        if wanted > held and self.used + wanted - held > self.most:
            raise RefusedError(
                503, "overloaded", "The server holds as many large requests as it can.", retry_after=2
            )  # fmt: skip
        self.used += wanted - held
        return wanted

    def release(self, held: int) -> None:
        """The request has ended."""
        self.used -= held
