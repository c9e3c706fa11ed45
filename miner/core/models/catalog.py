"""The models directory's contents, cached between requests: a name costs a look-up and a few `stat`s.

Directories are read again where their times have changed, a file's header where the file has. A name's files are
checked at each request: one that was replaced is another model from then on. An unknown name makes the directory be
read again at once; a list is at most a second old. All methods may take as long as a disk does and may be called from
several threads: call them in a thread, never on an event loop.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Generic, TypeVar

from miner.core.models.catalog_cache import FactsFile
from miner.core.models.created import CreatedModels
from miner.core.models.directory import DEMO, DirectoryReader, Stamp, beside, demo_file, stamp_of
from miner.core.models.gguf.fim import FimTokens
from miner.core.models.gguf.header import GGUFHeader, read_model
from miner.core.models.gguf.values import GGUFError
from miner.core.models.names import is_projector
from miner.core.models.resolve import LocatedModel, Models, list_local, resolve
from miner.errors import ModelNotFoundError

logger = logging.getLogger(__name__)

LIST_SECONDS = 1.0
"""Maximum age of a list, and of the default model."""
NAME_SECONDS = 5.0
"""Seconds for which a resolved name means the same file, even if files are added."""
KEPT = 4096
"""Maximum number of names, and of facts of models, in memory."""
LARGE = 32
"""Number of models from which facts are kept in a file: a header takes about 20 ms to read."""
HEADERS = 16
"""Maximum number of whole headers in memory; one may take megabytes."""

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Facts:
    """The small part of a model's header, for lists."""

    name: str | None
    architecture: str
    parameters: int
    quantization: str | None
    context_length: int | None
    embedding_length: int | None
    pooling_type: int | None
    chat_template: str | None
    fim_tokens: FimTokens | None

    @classmethod
    def of(cls, header: GGUFHeader) -> Facts:
        """Return the facts of a header."""
        return cls(**{field.name: getattr(header, field.name) for field in fields(cls)})


@dataclass(frozen=True, slots=True)
class _Found:
    """The result of looking up a name."""

    model: LocatedModel
    marks: tuple[Stamp, ...]
    """Its files, those that might become its projector, and their directory."""
    models: Models | None
    """The models at that time; None if the result does not depend on them."""


class Catalog:
    """The models of one directory, or the one that MODEL_PATH names."""

    def __init__(self, directory: Path, *, kept: Path | None = None) -> None:
        """
        Args:
            kept: the directory where facts of a large models directory are kept from one start to the next.
        """
        self.directory = directory
        name = hashlib.sha256(os.fsencode(os.path.abspath(directory))).hexdigest()[:32]
        self._kept = FactsFile(kept / f"{name}.json", Facts) if kept is not None else None
        self._kept_read = False
        self._reader = DirectoryReader(directory)
        self.created = CreatedModels(directory)
        """The models that were created from those of the directory."""
        self._models: Models | None = None
        self._read_at = float("-inf")
        self._reading = threading.Lock()
        self._found = _Recent[tuple[str | None, ...], _Found](KEPT)
        self._headers = _Recent[tuple[Stamp, ...], GGUFHeader](HEADERS)
        self._facts = _Recent[tuple[Stamp, ...], Facts | GGUFError](KEPT)
        self._paths: dict[str, str] = {}
        self._warned: set[str] = set()

    def models(self, *, newer_than: float) -> Models:
        """The models, read at that time (`time.monotonic()`) or later; the same object while nothing has changed.
        Concurrent callers share one read.
        """
        with self._reading:
            known = self._models
            if known is None or self._read_at < newer_than:
                began = time.monotonic()
                listing, demo = self._reader.read(), demo_file()
                for line in listing.skipped:
                    if line not in self._warned:
                        self._warned.add(line)
                        logger.warning("Left out of the models directory: %s", line)
                if known is None or known.groups is not listing.groups or known.demo != demo:
                    known = self._models = Models(self.directory, listing, demo)
                self._read_at = began
            return known

    def find(
        self, name: str | None, *, model_path: str | None = None, default_model: str | None = None
    ) -> LocatedModel:
        """The model that a name means, None being the default, as by `resolve`; its alias is no other model's here.

        Raises:
            ModelNotFoundError: there is none, or several.
            OSError: a file went away while it was looked at.
        """
        began = time.monotonic()
        key = (name, model_path, default_model)
        by_directory = not (name or model_path or default_model)
        known = self._found.get(key)
        if known is not None and _is_unchanged(known.marks):
            age = LIST_SECONDS if by_directory else NAME_SECONDS
            if known.models is None or known.models is self.models(newer_than=began - age):
                return known.model
        models = self.models(newer_than=began)
        try:
            found = resolve(name, model_path=model_path, default_model=default_model, models=models)
        except ModelNotFoundError:
            # A file outside of the directory that was requested by its path has an alias from then on.
            if name is None or name not in self._paths:
                raise
            found = resolve(self._paths[name], models=models)
        if found.source == "path" and not model_path:
            found = self._with_own_alias(found, models)
        only = model_path is not None and found.source == "path"
        self._found.put(key, _Found(found, _marks(found), None if only else models))
        return found

    def _with_own_alias(self, model: LocatedModel, models: Models) -> LocatedModel:
        """The model; its path becomes its alias if another model has that name."""
        path, alias = os.path.abspath(model.path), model.alias
        if models.matching(alias) or alias.lower() == DEMO or self._paths.setdefault(alias, path) != path:
            self._paths[path] = path
            return replace(model, alias=path)
        return model

    def forget(self) -> None:
        """Drop all caches."""
        self._found.clear()

    def listed(self, *, model_path: str | None = None) -> list[LocatedModel]:
        """All models with names, as by `list_local`.

        Raises:
            ModelNotFoundError: `model_path` is set and nothing is there.
        """
        models = self.models(newer_than=time.monotonic() - LIST_SECONDS)
        return list_local(models=models, model_path=model_path)

    def listed_facts(self, *, model_path: str | None = None) -> list[tuple[LocatedModel, Facts]]:
        """The same, each with its facts; files that are no usable models are left out.

        Raises:
            ModelNotFoundError: `model_path` is set and nothing is there.
        """
        listed = self.listed(model_path=model_path)
        kept = self._kept if len(listed) >= LARGE else None
        if kept is not None and not self._kept_read:
            self._kept_read = True
            for key, facts in kept.read().items():
                self._facts.put(key, facts)
        found = []
        for model in listed:
            with suppress(GGUFError):
                found.append((model, self.facts(model)))
        if kept is not None:
            kept.write({model.stamps[: len(model.parts)]: facts for model, facts in found})
        return found

    def aliases(self, model: LocatedModel) -> tuple[str, ...]:
        """Other names that mean this model alone."""
        models = self._models
        if models is None:
            return ()
        if model.source == "directory":
            return models.aliases(model.alias)
        own = (model.path.stem, model.path.name) if len(model.parts) == 1 else ()
        return tuple(
            name for name in own if name != model.alias and (model.source == "path" or not models.matching(name))
        )

    def header(self, model: LocatedModel) -> GGUFHeader:
        """The header of a model's files as they are.

        Raises:
            GGUFError: one of them is no GGUF that can be read.
        """
        return self._headers.get_or(_key(model), lambda: shared_header(model))

    def facts(self, model: LocatedModel) -> Facts:
        """The small part of the header, which is kept for all models.

        Raises:
            GGUFError: one of the files is no GGUF that can be read.
        """

        def read() -> Facts | GGUFError:
            try:
                return Facts.of(self._headers.get(key) or shared_header(model))
            except GGUFError as error:
                return error

        key = _key(model)
        facts = self._facts.get_or(key, read)
        if isinstance(facts, GGUFError):
            raise GGUFError(facts.path, facts.reason)
        return facts


def _marks(model: LocatedModel) -> tuple[Stamp, ...]:
    directory = model.path.parent
    projectors = {directory / name for name in beside(model.path) if is_projector(name)}
    files = {Path(stamp[0]) for stamp in model.stamps}
    return (*model.stamps, *(stamp_of(file) for file in sorted((projectors | {directory}) - files)))


def _is_unchanged(marks: tuple[Stamp, ...]) -> bool:
    try:
        return all(stamp_of(Path(mark[0])) == mark for mark in marks)
    except OSError:
        return False


class _Recent(Generic[Key, Value]):
    """A thread-safe LRU cache; a missing entry is computed once for all waiting threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[Key, Value] = OrderedDict()
        self._making: dict[Key, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        """Return the entry; None if there is none."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: Key, value: Value) -> None:
        """Set an entry."""
        with self._lock:
            self._entries[key] = value
            self._entries.move_to_end(key)
            while len(self._entries) > self._most:
                self._entries.popitem(last=False)

    def clear(self) -> None:
        """Drop all entries."""
        with self._lock:
            self._entries.clear()

    def get_or(self, key: Key, make: Callable[[], Value]) -> Value:
        """Return the entry, computed by `make` if there is none; exceptions are not cached."""
        found = self.get(key)
        if found is not None:
            return found
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        try:
            with making:
                found = self.get(key)
                if found is None:
                    found = make()
                    self.put(key, found)
                return found
        finally:
            with self._lock:
                self._making.pop(key, None)


_SHARED = _Recent[tuple[Stamp, ...], GGUFHeader](HEADERS)
"""What was read last in this process: many services may serve the same file, each with a catalog of its own."""


def shared_header(model: LocatedModel) -> GGUFHeader:
    """The header of a model's files, read once for all catalogs.

    Raises:
        GGUFError: one of them is no GGUF that can be read.
    """
    return _SHARED.get_or(_key(model), lambda: read_model(model.parts))


def _key(model: LocatedModel) -> tuple[Stamp, ...]:
    return model.stamps[: len(model.parts)]
