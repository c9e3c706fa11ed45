"""Catalog: the models that a caller may use, the default first, loaded or not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress

from msgspec.structs import replace

from miner.config.config import config_of
from miner.core.models.names import model_stem, without_tag
from miner.core.wire import ModelInfo
from miner.errors import ModelNotFoundError
from miner.gateway.context import Caller, RequestContext

_FILE = re.compile(r"^[/\\~.]|^[a-z]:[/\\]|://|\\|\.\.|\.gguf(:latest)?$", re.IGNORECASE)


async def known_models(context: RequestContext) -> list[ModelInfo]:
    """The models of the backend that this caller may use, each with a date: typed clients require one."""
    service = context.gateway.service
    default = config_of(service.config).default_model
    models = [
        model if (model.created or 0) > 0 else replace(model, created=context.gateway.created)
        for model in await service.list_models()
        if _may_use(context.caller, model)
    ]
    return sorted(models, key=lambda model: not (default is not None and default in (model.id, *model.aliases)))


def listed_names(models: Sequence[ModelInfo]) -> list[tuple[ModelInfo, str]]:
    """All names by which models are listed: the ids first, and then the other names."""
    ids = [(model, model.id) for model in models]
    return ids + [(model, name) for model in models for name in _other_names(model)]


def _other_names(model: ModelInfo) -> list[str]:
    """The names by which a model is listed besides its id: those that differ in more than case, `.gguf` and
    `:latest`.
    """
    names = {model_stem(without_tag(name)).lower(): name for name in (*reversed(model.aliases), model.id)}
    return [name for name in names.values() if name != model.id]


def _may_use(caller: Caller, model: ModelInfo) -> bool:
    """Whether the caller's key allows this model."""
    return caller.models is None or not caller.models.isdisjoint((model.id, *model.aliases))


async def find_model(context: RequestContext, name: str) -> ModelInfo:
    """The model of a name: one of `known_models`, also by a name that only the backend resolves.

    Raises:
        ModelNotFoundError: there is none, or not for this caller.
    """
    models = await known_models(context)
    spellings = {name.lower() for name in (name, without_tag(name), model_stem(without_tag(name)))}
    for model in models:
        if name == model.id or name in model.aliases:
            return model
    for model in models:
        if not spellings.isdisjoint(known.lower() for known in (model.id, *model.aliases)):
            return model
    if not could_be_a_file(name):
        with suppress(ModelNotFoundError):
            resolved = await context.gateway.service.resolve_model(name)
            for model in models:
                if resolved is not None and resolved.id == model.id:
                    return model
    names = [model.id for model in models]
    raise ModelNotFoundError(
        f"There is no model {name!r}. Available: {', '.join(names) or 'none'}.", model=name, available=names
    )


def could_be_a_file(name: str) -> bool:
    """Whether a name could be a path or a URL, which some backends would open."""
    return _FILE.search(name) is not None
