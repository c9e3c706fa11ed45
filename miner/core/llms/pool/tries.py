"""Tries: which models are tried for a request, in which order, and what is raised if none serves it."""

from __future__ import annotations

from collections.abc import Iterator

from miner.core.llms.contract.failover import Cooldowns, is_unavailable, worst
from miner.core.llms.pool.table import ServedModel
from miner.errors import (
    BackendError,
    ContextLengthError,
    MinerError,
    ModelNotFoundError,
    RequestError,
    UnsupportedFeatureError,
)

_CANNOT = (ContextLengthError, ModelNotFoundError, UnsupportedFeatureError)
"""Refusals of a fallback after which the others are tried: the model that was asked for may serve the request."""


class Tries:
    """The model of a request, and those that serve it while that one's backend is unavailable.

    Args:
        seconds: how long one that failed is tried after the others.
    """

    def __init__(self, model: ServedModel, fallbacks: list[ServedModel], cooldowns: Cooldowns, seconds: float) -> None:
        self._model = model
        self._models = sorted(dict.fromkeys((model, *fallbacks)), key=lambda each: each.name in cooldowns)
        self._cooldowns = cooldowns
        self._seconds = seconds
        self._failed: BackendError | None = None
        self._refused: RequestError | None = None

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models)

    def note(self, tried: ServedModel, error: MinerError, *, delivered: bool = False) -> None:
        """One has not served the request: the next is tried, unless that is of no use.

        Args:
            delivered: whether a part of its response was.

        Raises:
            MinerError: no other one can do better, or is left: the error of one that failed, else of one that refused.
        """
        is_last = tried is self._models[-1]
        if isinstance(error, BackendError):
            if delivered or not is_unavailable(error):
                raise error
            self._failed = error
            if not is_last:
                self._cooldowns.start(tried.name, error, self._seconds)
        elif tried is self._model or delivered or not isinstance(error, _CANNOT):
            raise error
        else:
            self._refused = self._refused or error
        if is_last:
            raise worst(self._failed, self._refused)
