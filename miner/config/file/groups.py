"""Checks of [groups] and [limits] against the models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from miner.config.file.kinds import ENGINE_KEYS, BackendFacts, backend_of
from miner.config.file.merge import with_defaults
from miner.config.file.names import listed_models
from miner.config.file.problems import Problem, nearest, toml_text
from miner.config.file.schema import ConfigFile

_SHARED = ("backend", "file", "hub", *ENGINE_KEYS)
"""Keys that models in one engine have in common."""


def check_groups(content: ConfigFile) -> Iterator[Problem]:
    """The problems of [groups], and of [limits] with pinned models."""
    pinned = [name for name, model in content.models.items() if model.pin]
    most = content.limits.max_loaded
    if most is not None and most < len(_engines(content, pinned)):
        message = f"more models are pinned: {', '.join(pinned)}"
        yield Problem(message, ("limits", "max_loaded"))
    for group_name, group in content.groups.items():
        where = ("groups", group_name)
        seen: set[str] = set()
        for number, name in enumerate(group.models):
            here = (*where, "models", number)
            if name not in content.models:
                hint = nearest(name, content.models) or listed_models(content)
                yield Problem("there is no such model", here, hint=hint)
                continue
            if name in seen:
                yield Problem("stands there twice", here)
            seen.add(name)
            found = backend_of(content, content.models[name])
            if isinstance(found, BackendFacts) and not (found.starts_engines or found.is_command):
                yield Problem(f"{found.shown} runs elsewhere: nothing is loaded or unloaded here", here)
        if not group.exclusive and not group.share_engine and group.max_loaded is None:
            hint = "max_loaded, exclusive or share_engine does."
            yield Problem("says nothing about its models", where, hint=hint)
        inside = [name for name in pinned if name in group.models]
        if group.max_loaded is not None and group.max_loaded < len(_engines(content, inside)):
            yield Problem(f"more models are pinned: {', '.join(inside)}", (*where, "max_loaded"))
        outside = [name for name in pinned if name not in group.models]
        if group.exclusive and outside:
            message = f"{outside[0]} is pinned and not in it, so that no model of this group could be loaded"
            yield Problem(message, (*where, "exclusive"))
        if group.share_engine:
            yield from _shared(content, group_name)


def _engines(content: ConfigFile, models: list[str]) -> set[str]:
    """One text for each engine of these models: equal options share one."""
    return {repr([_effective(content, name, key) for key in _SHARED]) for name in models}


def _effective(content: ConfigFile, name: str, key: str) -> Any:
    model = with_defaults(content.models[name], content)
    value = getattr(model, key)
    if key == "file" and value is None and model.hub is None:
        return model.name or name  # found by its name in the models directory
    return value


def _shared(content: ConfigFile, group_name: str) -> Iterator[Problem]:
    """The models of a group that cannot share one engine, and the key that differs."""
    models = [name for name in content.groups[group_name].models if name in content.models]
    for other in models[1:]:
        for key in _SHARED:
            first, second = _effective(content, models[0], key), _effective(content, other, key)
            if first != second:
                values = f"{_shown(first)} in {models[0]} and {_shown(second)} in {other}"
                where = ("groups", group_name, "share_engine")
                yield Problem(f"{key} is {values}", where, hint="One engine has one value of each engine option.")
                break


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    if hasattr(value, "model_dump"):
        value = value.model_dump(exclude_none=True)
    if isinstance(value, list):
        value = [each.model_dump() if hasattr(each, "model_dump") else each for each in value]
    return toml_text(value)
