"""Loading a model before it is asked for anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miner.core.llms.contract.durations import seconds_of
from miner.core.wire import ModelInfo
from miner.errors import InvalidRequestError, UnsupportedFeatureError

if TYPE_CHECKING:
    from miner.core.llms.LLMService import LLMService

__all__ = ["load"]


async def load(service: LLMService, model: str | None, keep_alive: float | str | None) -> ModelInfo:
    """The model, checked as for a request, and ready."""
    if keep_alive is not None:
        if isinstance(keep_alive, bool) or not isinstance(keep_alive, (int, float, str)):
            raise InvalidRequestError(f"keep_alive must be seconds, not {keep_alive!r}.", param="keep_alive")
        if seconds_of(keep_alive) == 0:
            raise InvalidRequestError(
                "keep_alive=0 would let the model go at once.", param="keep_alive", hint="unload_model does that."
            )
        if "keep_alive" not in service.capabilities:
            raise UnsupportedFeatureError(
                f"{service.name} does not support keep_alive: its models stay loaded.", param="keep_alive"
            )
    with service._in_flight.call():
        info = await service.resolve_model(model)
        # A backend that names no models: there is nothing to load, and its own name stands for what answers.
        return await service._load(info, keep_alive) if info is not None else ModelInfo(id=service.name)
