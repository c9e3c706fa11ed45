"""What a file's tables say about each other: names that must exist, options that a backend cannot apply, and more.

Problems make the file invalid; notes do not.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from miner.config.file import names
from miner.config.file.groups import check_groups
from miner.config.file.kinds import BackendFacts, backend_of, check_backends, local_only
from miner.config.file.lines import KeyPath
from miner.config.file.merge import LOCAL
from miner.config.file.problems import Problem, nearest
from miner.config.file.schema import ConfigFile, Model
from miner.config.file.variables import Variables


def check(
    content: ConfigFile, written: Mapping[str, Any], variables: Variables, path: Path
) -> tuple[list[Problem], list[Problem]]:
    """The problems and the notes of a file whose tables are valid each for itself.

    Args:
        written: the file as it is written.
        path: the file; relative paths start at its directory.
    """
    problems = [
        *check_backends(content, written, variables),
        *_key_files(content, path.parent),
        *_models(content),
        *names.check_names(content),
        *_fallbacks(content),
        *_defaults(content),
        *check_groups(content),
    ]
    return problems, [*_key_file_notes(content, path), *_notes(content)]


def _key_files(content: ConfigFile, directory: Path) -> Iterator[Problem]:
    for name, backend in content.backends.items():
        if backend.key_file is None:
            continue
        file = directory / Path(backend.key_file).expanduser()
        if not file.is_file():
            why = "is not a file" if file.exists() else "does not exist"
            yield Problem(f"the file {file} {why}", ("backends", name, "key_file"))


def _key_file_notes(content: ConfigFile, path: Path) -> Iterator[Problem]:
    """Keys that other users of the machine can read."""
    for name, backend in content.backends.items():
        if backend.key_file is not None:
            file = path.parent / Path(backend.key_file).expanduser()
            if _others_read(file):
                where = ("backends", name, "key_file")
                yield Problem("other users can read that file", where, hint=f"chmod 600 {file}")
        if backend.plain_key is not None and _others_read(path):
            where = ("backends", name, "plain_key")
            yield Problem("other users can read this file", where, hint=f"chmod 600 {path}")


def _others_read(file: Path) -> bool:
    try:
        return bool(file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
    except OSError:
        return False


def _models(content: ConfigFile) -> Iterator[Problem]:
    for name, model in content.models.items():
        where = ("models", name)
        found = backend_of(content, model)
        if isinstance(found, Problem):
            yield Problem(found.message, (*where, *found.path), hint=found.hint)
            continue
        yield from _source(model, found, where)
        yield from local_only(model, found, where)
        both = sorted(set(model.skip) & set(model.refuse))
        if both:
            yield Problem(f"{both[0]} is in refuse as well", (*where, "skip"))
        if model.pooling is not None:
            if model.sampling.model_fields_set:
                yield Problem("nothing is sampled from an embedding model", (*where, "sampling"))
            if model.system is not None:
                yield Problem("an embedding model has no conversations", (*where, "system"))
            if model.speculation is not None:
                yield Problem("an embedding model generates nothing", (*where, "speculation"))
        draft = model.speculation
        if draft is not None:
            yield from _speculation(draft.file, draft.hub, draft.n_min, draft.n_max, (*where, "speculation"))


def _speculation(
    file: str | None, hub: str | None, n_min: int | None, n_max: int | None, where: KeyPath
) -> Iterator[Problem]:
    if file is not None and hub is not None:
        yield Problem("file and hub are two models", where, hint="Keep one of them.")
    if n_min is not None and n_max is not None and n_min > n_max:
        yield Problem(f"must be at most n_max, which is {n_max}", (*where, "n_min"))


def _source(model: Model, backend: BackendFacts, where: KeyPath) -> Iterator[Problem]:
    """Which of file, hub and name says what the model is."""
    if model.file is not None and model.hub is not None:
        yield Problem("file and hub are two models", (*where, "hub"), hint="Keep one of them.")
    for key in ("file", "hub", "name", "description", "chat_template"):
        if getattr(model, key) == "":
            yield Problem("must not be empty", (*where, key))
    source = next((key for key in ("file", "hub") if getattr(model, key) is not None), None)
    if source is None:
        return
    if not backend.starts_engines:
        hint = "Name it as that server does: name = ..."
        yield Problem(f"is for llama.cpp's engines, and {backend.shown} starts none", (*where, source), hint=hint)
    elif model.name is not None:
        hint = "Clients use NAME of [models.NAME] and aliases."
        yield Problem(f"{source} says already what the model is", (*where, "name"), hint=hint)


def _fallbacks(content: ConfigFile) -> Iterator[Problem]:
    known = names.exact_names(content)
    for name, model in content.models.items():
        if model.fallbacks and model.pooling is not None:
            message = "an embedding model has no fallbacks: vectors of two models do not compare"
            yield Problem(message, ("models", name, "fallbacks"))
            continue
        seen: set[str] = set()
        for number, other in enumerate(model.fallbacks):
            where = ("models", name, "fallbacks", number)
            meant = known.get(other)
            if meant is None:
                hint = nearest(other, content.models) or names.listed_models(content)
                yield Problem("there is no such model", where, hint=hint)
            elif meant == name:
                yield Problem("a model cannot replace itself", where)
            elif content.models[meant].pooling is not None:
                yield Problem("is an embedding model, which generates nothing", where)
            elif meant in seen:
                yield Problem("stands there twice", where)
            seen.add(meant or other)


def _defaults(content: ConfigFile) -> Iterator[Problem]:
    defaults = content.defaults
    if defaults.backend not in (None, LOCAL, *content.backends):
        nearer = nearest(defaults.backend, content.backends)
        listed = f"Backends: {', '.join(content.backends) or 'none'}."
        yield Problem("there is no such backend", ("defaults", "backend"), hint=nearer or listed)
    exposing = any(backend.expose for backend in content.backends.values())
    if defaults.model is not None and not exposing and names.meaning(content, defaults.model) is None:
        hint = nearest(defaults.model, names.exact_names(content)) or names.listed_models(content)
        yield Problem("there is no such model", ("defaults", "model"), hint=hint)
    both = sorted(set(defaults.skip) & set(defaults.refuse))
    if both:
        yield Problem(f"{both[0]} is in refuse as well", ("defaults", "skip"))


def _notes(content: ConfigFile) -> Iterator[Problem]:
    found = {backend_of(content, model) for model in content.models.values()}
    used = {each.name for each in found if isinstance(each, BackendFacts)}
    for name, backend in content.backends.items():
        if name not in used and not backend.expose:
            hint = "expose = true serves all that it has."
            yield Problem("no model uses this backend", ("backends", name), hint=hint)
    if not content.models and not any(backend.expose for backend in content.backends.values()):
        yield Problem("the file has no models: nothing is served")
    for name, model in content.models.items():
        if model.pin and model.keep_alive is not None and model.keep_alive >= 0:
            yield Problem("has no effect: the model is pinned", ("models", name, "keep_alive"))
