"""Resolves a model's name to a file.

A name means, in this order: the demo model (`demo`), a path, a model in the models directory, a model that was pulled
from a hub. It must be exact, in any case: the name in the list, its last part, the file's name, a reference to the hub,
each also with Ollama's `:latest` behind it. Prefixes do not match. A name is only ever compared with what the models
directory holds, never joined to it, so it cannot leave it.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from miner.core.models.directory import (
    DEMO,
    DEMO_HINT,
    DirectoryReader,
    Listing,
    Stamp,
    beside,
    cached_header,
    default_models_dir,
    demo_file,
    kind_of,
    stamp_of,
)
from miner.core.models.gguf.values import GGUFError
from miner.core.models.names import (
    SUFFIX,
    FileGroup,
    HubRef,
    check_name,
    choose,
    group,
    model_stem,
    parse_ref,
    without_tag,
)
from miner.core.models.projector import Neighbours, projector_for
from miner.errors import ModelNotFoundError

PATH_STARTS = ("/", "\\", "~", "./", "../", ".\\", "..\\")


@dataclass(frozen=True, slots=True)
class LocatedModel:
    """A model's files on this machine."""

    path: Path
    """The file to give to the engine: the first one of a split model."""
    parts: tuple[Path, ...]
    """All files of the model itself, in order."""
    alias: str
    """The name to show and to use in requests."""
    stamps: tuple[Stamp, ...]
    """Stamps of these files and of the projector; other stamps mean other content."""
    mmproj: Path | None = None
    """The vision or audio projector beside the model."""
    source: str = "path"
    """Where it was found: path, directory or demo."""

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(stamp[1] for stamp in self.stamps[: len(self.parts)])

    @property
    def modified(self) -> int:
        """Seconds since 1970, of the newest part."""
        return max(stamp[2] for stamp in self.stamps[: len(self.parts)]) // 1_000_000_000


class Models:
    """The models that can be named: those of a directory as it was read, and the demo model. Pure look-ups."""

    def __init__(self, directory: Path, listing: Listing, demo: Path | None) -> None:
        self.directory = directory
        self.groups = listing.groups
        self.skipped = listing.skipped
        """Links in the directory that were not followed, with the reasons."""
        self.demo = demo
        self._exact = {item.name: item for item in self.groups}
        self._full: dict[str, list[FileGroup]] = {}
        self._last: dict[str, list[FileGroup]] = {}
        self._pulled: dict[str, list[FileGroup]] = {}
        for item in self.groups:
            full = item.name.lower()
            self._full.setdefault(full, []).append(item)
            self._last.setdefault(full.rpartition("/")[2], []).append(item)
            repository = full.split("/")[:2]
            if full.count("/") >= 2:
                self._pulled.setdefault("/".join(repository), []).append(item)

    @classmethod
    def read(cls, directory: Path) -> Models:
        """Read the models now. Blocks: reads directories."""
        return cls(directory, DirectoryReader(directory).read(), demo_file())

    @property
    def complete(self) -> list[FileGroup]:
        """Models of the directory without missing parts."""
        return [item for item in self.groups if not item.missing]

    @property
    def names(self) -> list[str]:
        """The names of all models; the demo model's is the last."""
        return [*(item.name for item in self.groups), *([DEMO] if self.demo else [])]

    def matching(self, name: str) -> list[FileGroup]:
        """The models of the directory that the name means; several if it is ambiguous."""
        for wanted in dict.fromkeys((name, without_tag(name))):
            stem = model_stem(wanted)
            exact = self._exact.get(stem)
            if exact is not None:
                return [exact]
            found = self._full.get(stem.lower()) or self._last.get(stem.lower())
            if found:
                return found
        return []

    def pulled(self, ref: HubRef) -> list[FileGroup]:
        """Models pulled from one repository."""
        return self._pulled.get(ref.repository.lower(), [])

    def aliases(self, name: str) -> tuple[str, ...]:
        """Other names that mean the model of this name alone."""
        item = self._exact.get(name)
        if item is None:
            return ()
        last = name.rpartition("/")[2]
        names = (last, f"{last}{SUFFIX}") if len(item.files) == 1 else (last,)
        return tuple(other for other in names if other != name and self.matching(other) == [item])


def resolve(
    name: str | None,
    *,
    model_path: str | None = None,
    models_dir: Path | None = None,
    default_model: str | None = None,
    allow_paths: bool = True,
    models: Models | None = None,
) -> LocatedModel:
    """Find the files of the model that `name` means. Reads directories, so not for an event loop.

    None means `model_path`, else `default_model`, else the one model of the directory, else, where that is empty,
    the demo model. With `model_path` set, only that model can be named: by its path, file name, stem or the name in its
    header, or by `default_model`.

    Args:
        name: The model's name in the request.
        model_path: The setting MODEL_PATH: a path or itself a name.
        models_dir: The setting MODELS_DIR; None: `default_models_dir()`.
        default_model: The setting DEFAULT_MODEL.
        allow_paths: Whether `name` may be a path. The settings always may.
        models: What the directory holds, where it has been read already.

    Raises:
        ModelNotFoundError: nothing is there by that name, several are, or parts are missing.
        InvalidRequestError: the name is empty or holds control characters.
    """
    if models is None:
        models = Models.read(models_dir.expanduser() if models_dir else default_models_dir())
    if model_path:
        only = _from_setting("MODEL_PATH", model_path, models)
        if name is None or name in (model_path, default_model):
            return only
        check_name(name)
        if is_name_of(only, name):
            return only
        raise ModelNotFoundError(
            f"There is no model {name!r}; the only one here is {only.alias!r}.",
            model=name,
            available=[only.alias],
            hint=f"Use {only.alias!r}.",
            operator_hint="MODEL_PATH is set: unset it to serve the models directory.",
        )
    if name is not None:
        return _locate(name, models, allow_paths=allow_paths or name == default_model)
    if default_model:
        return _from_setting("DEFAULT_MODEL", default_model, models)
    there = models.complete
    if not there:
        return _locate(DEMO, models, allow_paths=False)
    if len(there) == 1:
        return _in_directory(models, there[0])
    names = [item.name for item in there] + ([DEMO] if models.demo else [])  # never the choice, but one of them
    raise ModelNotFoundError(
        f"There are several models and none was named: {_listing(names)}.",
        available=names,
        hint="Name one.",
        operator_hint="Or set DEFAULT_MODEL.",
    )


def list_local(
    *, models_dir: Path | None = None, model_path: str | None = None, models: Models | None = None
) -> list[LocatedModel]:
    """The models that have names, in their order, the demo model last; with `model_path` set, that one alone.

    Models of which parts are missing are left out, and so is the demo model where its package is not installed.

    Raises:
        ModelNotFoundError: `model_path` is set and nothing is there.
    """
    if models is None:
        models = Models.read(models_dir.expanduser() if models_dir else default_models_dir())
    if model_path:
        return [_from_setting("MODEL_PATH", model_path, models)]
    found: list[LocatedModel] = []
    near: dict[Path, Neighbours] = {}  # each directory is read once
    for item in models.complete:
        parts = tuple(models.directory / file for file in item.files)
        names = near.get(parts[0].parent)
        if names is None:
            names = near[parts[0].parent] = Neighbours(beside(parts[0]))
        try:
            found.append(_from_parts(parts, item.name, "directory", names))
        except OSError:
            continue  # deleted just now
    return found + ([_from_parts((models.demo,), DEMO, "demo")] if models.demo else [])


def _from_setting(variable: str, value: str, models: Models) -> LocatedModel:
    try:
        return _locate(value, models, allow_paths=True)
    except ModelNotFoundError as error:
        if value != DEMO:
            error.message = f"{variable} is {value!r}. {error.message}"
        raise


def _locate(name: str, models: Models, *, allow_paths: bool) -> LocatedModel:
    check_name(name)
    if model_stem(without_tag(name)).lower() == DEMO:
        if models.demo is None:
            raise ModelNotFoundError("The demo model is not installed.", model=DEMO, operator_hint=DEMO_HINT)
        return _from_parts((models.demo,), DEMO, "demo")
    if name.startswith(PATH_STARTS) or os.path.isabs(name):
        if not allow_paths:
            raise ModelNotFoundError(f"The model {name!r} is a path: use a model's name.", model=name)
        return _from_path(name)
    ref = parse_ref(name)
    pulled = models.pulled(ref) if ref else []
    matches = [] if name.startswith("hf:") else models.matching(name)
    if len(matches) == 1:
        return _in_directory(models, matches[0], name=name)
    if ref and pulled:
        return _in_directory(models, choose(pulled, ref, place=ref.repository), name=name)
    if matches:
        raise _ambiguous(name, matches)
    if models.demo is not None and model_stem(without_tag(name)).lower() == model_stem(models.demo.name).lower():
        return _from_parts((models.demo,), DEMO, "demo")
    if allow_paths and os.path.exists(name) and name.lower().endswith(SUFFIX):
        return _from_path(name)
    raise _unknown(name, models, ref)


def _in_directory(models: Models, item: FileGroup, *, name: str | None = None) -> LocatedModel:
    _check_complete(item, models.directory, name or item.name)
    return _from_parts(tuple(models.directory / file for file in item.files), item.name, "directory")


def _from_path(name: str) -> LocatedModel:
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        inside = [item.name for item in DirectoryReader(path).read().groups]
        raise ModelNotFoundError(
            f"{str(path)!r} is a directory, not a GGUF file; it holds: {_listing(inside)}.",
            model=name,
            operator_hint="Use the path of the file, or set MODELS_DIR to the directory and use a name.",
        )
    if os.path.exists(path) and not os.path.isfile(path):
        raise ModelNotFoundError(
            f"{str(path)!r} is {kind_of(path.stat())}, not a GGUF file.",
            model=name,
            operator_hint="Use the path of a .gguf file.",
        )
    if not os.path.isfile(path):
        near = difflib.get_close_matches(path.name, beside(path), n=3)
        also = f" Near it: {', '.join(near)}." if near else ""
        raise ModelNotFoundError(f"There is no file {str(path)!r}.{also}", model=name, operator_hint="Check the path.")
    stem = model_stem(path.name)
    for item in group(beside(path)):
        if path.name in item.files and len(item.files) + len(item.missing) > 1:
            _check_complete(item, path.parent, name)
            return _from_parts(tuple(path.parent / file for file in item.files), stem, "path")
    return _from_parts((path,), stem, "path")


def _from_parts(parts: tuple[Path, ...], alias: str, source: str, near: Neighbours | None = None) -> LocatedModel:
    mmproj = projector_for(parts[0], Neighbours(beside(parts[0])) if near is None else near)
    files = (*parts, mmproj) if mmproj is not None else parts
    return LocatedModel(parts[0], parts, alias, tuple(stamp_of(file) for file in files), mmproj, source)


def _check_complete(item: FileGroup, directory: Path, name: str) -> None:
    if item.missing:
        raise ModelNotFoundError(
            f"The model {name!r} is split into {len(item.files) + len(item.missing)} files, of which some are missing: "
            f"{', '.join(item.missing)}.",
            model=name,
            hint="Pull the model again.",
            operator_hint=f"Or put the missing files into {directory}.",
        )


def is_name_of(model: LocatedModel, name: str) -> bool:
    """Whether the name is one of the model's own: alias, stem, file name, path, or the name in its header."""
    own = {model.alias.lower(), model_stem(model.path.name).lower()}
    if {model_stem(name).lower(), model_stem(without_tag(name)).lower()} & own:
        return True
    if os.path.realpath(os.path.expanduser(name)) in {os.path.realpath(part) for part in model.parts}:
        return True
    try:
        return name == cached_header(model.path).name
    except (GGUFError, OSError):
        return False


def _listing(names: Iterable[str]) -> str:
    known = list(names)
    more = f" and {len(known) - 20} more" if len(known) > 20 else ""
    return (", ".join(known[:20]) + more) or "nothing"


def _ambiguous(name: str, matches: Sequence[FileGroup]) -> ModelNotFoundError:
    names = [item.name for item in matches]
    return ModelNotFoundError(
        f"The name {name!r} fits {len(names)} models: {_listing(names)}.",
        model=name,
        available=names,
        hint="Use the full name.",
    )


def _unknown(name: str, models: Models, ref: HubRef | None) -> ModelNotFoundError:
    names = models.names
    wanted = model_stem(without_tag(name)).lower()
    keys = {key.lower(): item for item in names for key in (item.rsplit("/", 1)[-1], item)}
    begun = [item for key, item in keys.items() if key.startswith(wanted)] if wanted else []
    close = difflib.get_close_matches(wanted, list(keys)[:1000], n=3, cutoff=0.5)
    near = list(dict.fromkeys((*begun, *(keys[key] for key in close))))[:3]
    operator_hint = None
    if ref:
        operator_hint = f"Get it from the hub with: miner models pull {ref}"
    elif not names:
        operator_hint = DEMO_HINT
    elif not near:
        operator_hint = f"The models directory is {models.directory}; a path or hf:owner/repo[:quantization] works too."
    return ModelNotFoundError(
        f"There is no model {name!r}. Available: {_listing(names)}.",
        model=name,
        available=names,
        hint=f"Did you mean {' or '.join(repr(item) for item in near)}?" if near else None,
        operator_hint=operator_hint,
    )
