"""The models that a caller can name, the default first, loaded or not."""

from __future__ import annotations

from miner.config.config import config_of
from miner.core.wire import ModelInfo
from miner.errors import ModelNotFoundError
from miner.gateway.exchange import Caller, Exchange

__all__ = ["find_model", "known_models"]


async def known_models(exchange: Exchange) -> list[ModelInfo]:
    """What the backend has and this caller may use."""
    service = exchange.gateway.service
    default = config_of(service.config).default_model
    models = [model for model in await service.list_models() if may_use(exchange.caller, model)]
    return sorted(models, key=lambda model: not (default is not None and default in (model.id, *model.aliases)))


def may_use(caller: Caller, model: ModelInfo) -> bool:
    """Whether a key with a list of models opens this one."""
    return caller.models is None or not caller.models.isdisjoint((model.id, *model.aliases))


async def find_model(exchange: Exchange, name: str) -> ModelInfo:
    """The model behind a name.

    Raises:
        ModelNotFoundError: there is none, or not for this caller.
    """
    models = await known_models(exchange)
    for model in models:
        if name == model.id or name in model.aliases:
            return model
    names = [model.id for model in models]
    raise ModelNotFoundError(
        f"There is no model {name!r}. There is: {', '.join(names) or 'none'}.", model=name, available=names
    )
