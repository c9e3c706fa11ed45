"""Catalog: the models that a caller may use, the default first, loaded or not."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from msgspec.structs import replace

from miner.core.llms.contract.rules import ModelRules
from miner.core.llms.LLMService import LLMService
from miner.core.models.names import model_stem, without_tag
from miner.core.wire import ModelInfo
from miner.errors import ModelNotFoundError
from miner.gateway.context import Caller, RequestContext
from miner.gateway.model_backend import could_be_a_file


async def known_models(context: RequestContext) -> list[ModelInfo]:
    """The models of the backend that this caller may use, each with a date: typed clients require one."""
    service = context.gateway.service
    default = service.rules_of(None).name
    models = [
        model if (model.created or 0) > 0 else replace(model, created=context.gateway.created)
        for model in await service.list_models()
        if may_list(context.caller, service, model)
    ]
    return sorted(models, key=lambda model: not (default is not None and default in (model.id, *model.aliases)))


def capabilities_of(service: LLMService, model: ModelInfo) -> frozenset[str]:
    """What a model can do: where it does not say, what its backend can."""
    return model.capabilities if model.capabilities is not None else service.backend_of(model.id).capabilities


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


def may_list(caller: Caller, service: LLMService, model: ModelInfo) -> bool:
    """Whether lists for this caller show a model."""
    rules = service.rules_of(model.id)
    if rules.names:
        return rules.is_listed and may_use(caller, service, rules)
    return caller.models is None or not caller.models.isdisjoint((model.id, *model.aliases))


def may_use(caller: Caller, service: LLMService, rules: ModelRules) -> bool:
    """Whether a caller may use a model that the operator has named: the model allows the key, and the key allows the
    model, by any of its names. A name in a key's list means the model that a request with that name gets.
    """
    if rules.keys is not None and (caller.anonymous or caller.name not in rules.keys):
        return False
    if caller.models is None or not rules.names.isdisjoint(caller.models):
        return True
    return any(service.rules_of(name).name == rules.name for name in caller.models)


async def find_model(context: RequestContext, name: str) -> ModelInfo:
    """The model of a name: one of `known_models`, also by a name that only the backend resolves.

    Raises:
        ModelNotFoundError: there is none, or not for this caller.
    """
    models, service = await known_models(context), context.gateway.service
    rules = service.rules_of(name)
    if rules.names:
        if may_use(context.caller, service, rules):
            listed = next((model for model in models if model.id == rules.name), None)
            return listed or await service.resolve_model(name) or ModelInfo(id=rules.name or name)
        raise _missing(name, models)
    spellings = {name.lower() for name in (name, without_tag(name), model_stem(without_tag(name)))}
    for model in models:
        if name == model.id or name in model.aliases:
            return model
    for model in models:
        if not spellings.isdisjoint(known.lower() for known in (model.id, *model.aliases)):
            return model
    if not could_be_a_file(name):
        with suppress(ModelNotFoundError):
            resolved = await service.resolve_model(name)
            for model in models:
                if resolved is not None and resolved.id == model.id:
                    return model
    raise _missing(name, models)


def _missing(name: str, models: Sequence[ModelInfo]) -> ModelNotFoundError:
    names = [model.id for model in models]
    return ModelNotFoundError(
        f"There is no model {name!r}. Available: {', '.join(names) or 'none'}.", model=name, available=names
    )


async def refuse_nameless(context: RequestContext) -> None:
    """Refuse a request that names no model where there is no default.

    Raises:
        ModelNotFoundError: lists the models that this caller may use.
    """
    names = [model.id for model in await known_models(context)]
    raise ModelNotFoundError(
        "No model was named, and there is no default.", available=names,
        hint=f"Name one: {', '.join(names)}." if names else None,
    )  # fmt: skip
