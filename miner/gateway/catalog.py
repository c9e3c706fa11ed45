"""The models that a caller can name, the default first, loaded or not."""

from __future__ import annotations

import re
from contextlib import suppress

from miner.config.config import config_of
from miner.core.models.names import model_stem, without_tag
from miner.core.wire import ModelInfo
from miner.errors import ModelNotFoundError
from miner.gateway.context import Caller, RequestContext

__all__ = ["could_be_a_file", "find_model", "known_models"]

_FILE = re.compile(r"^[/\\~.]|^[a-z]:[/\\]|://|\\|\.\.|\.gguf(:latest)?$", re.IGNORECASE)


async def known_models(context: RequestContext) -> list[ModelInfo]:
    """What the backend has and this caller may use."""
    service = context.gateway.service
    default = config_of(service.config).default_model
    models = [model for model in await service.list_models() if may_use(context.caller, model)]
    return sorted(models, key=lambda model: not (default is not None and default in (model.id, *model.aliases)))


def may_use(caller: Caller, model: ModelInfo) -> bool:
    """Whether a key with a list of models opens this one."""
    return caller.models is None or not caller.models.isdisjoint((model.id, *model.aliases))


async def find_model(context: RequestContext, name: str) -> ModelInfo:
    """The model behind a name: one of the list's, or one that the backend means by it and that is in the list.

    Raises:
        ModelNotFoundError: there is none, or not for this caller.
    """
    models = await known_models(context)
    wanted = {same.lower() for same in (name, without_tag(name), model_stem(without_tag(name)))}
    for model in models:
        if name == model.id or name in model.aliases:
            return model
    for model in models:
        if not wanted.isdisjoint(known.lower() for known in (model.id, *model.aliases)):
            return model
    if not could_be_a_file(name):
        with suppress(ModelNotFoundError):
            meant = await context.gateway.service.resolve_model(name)
            for model in models:
                if meant is not None and meant.id == model.id:
                    return model
    names = [model.id for model in models]
    raise ModelNotFoundError(
        f"There is no model {name!r}. There is: {', '.join(names) or 'none'}.", model=name, available=names
    )


def could_be_a_file(name: str) -> bool:
    """Whether this could be a path or an address, which some backends would open."""
    return _FILE.search(name) is not None
