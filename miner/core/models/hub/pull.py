"""Bring a model from a hub into the models directory: all its files, checked, in place only when all are there."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from miner.core.models.created import CreatedModels
from miner.core.models.gguf.header import read_header
from miner.core.models.gguf.values import GGUFError
from miner.core.models.hub.client import Hub, HubFile, Repository
from miner.core.models.hub.download import Meter, PullProgress, digest_of, download, lock
from miner.core.models.names import FileGroup, HubRef, choose, group, parse_ref, projector_choice
from miner.core.models.resolve import LocatedModel, resolve
from miner.errors import BackendProtocolError, InvalidRequestError, MinerError, ModelNotFoundError

PARTS = ".downloads"
"""Directory inside the models directory for incomplete downloads."""
SPARE = 64 << 20
"""Bytes of the disk that a pull leaves free."""


@dataclass(frozen=True, slots=True)
class _Item:
    """One file to download."""

    file: HubFile
    target: Path
    part: Path
    lock: Path


def pull(
    ref: str,
    models_dir: Path,
    *,
    hub: Hub,
    on_progress: Callable[[PullProgress], None] | None = None,
) -> LocatedModel:
    """Download the model that `hf:owner/repo[:quant or file]` means, with all its parts and its projector.

    Complete files with the right hash are not downloaded again; an interrupted download is resumed by the next pull.
    Blocks, so not for an event loop.

    Args:
        ref: What to get. Without a quantization: the first of `names.PREFERRED` that is there.
        models_dir: Where to; the files land in `owner/repo/` in it.
        hub: Where from.
        on_progress: called a few times a second.

    Raises:
        InvalidRequestError: `ref` is no reference.
        ModelNotFoundError: there is no such repository, or no such model in it, or several.
        BackendError: the hub refuses, fails, cannot be reached, or sends what it did not announce.
        ConfigError: huggingface_hub is not installed.
        MinerError: the disk has no room or cannot be written.
    """
    wanted = parse_ref(ref)
    if wanted is None:
        raise InvalidRequestError(
            f"{ref!r} is not a reference to a model on a hub.",
            param="model",
            hint="Write hf:owner/repo or hf:owner/repo:Q4_K_M.",
        )
    repository = hub.repository(wanted)
    chosen = choose(group(file.path for file in repository.files), wanted, place=f"{hub.endpoint}/{wanted.repository}")
    if chosen.missing:
        raise ModelNotFoundError(
            f"{wanted} is not complete on the hub: {', '.join(chosen.missing)} is not there.", model=ref
        )
    files = [hub.complete(wanted, repository.revision, file) for file in _wanted(repository, chosen)]
    directory = models_dir.expanduser()
    try:
        items = _plan(wanted, files, directory)
        with ExitStack() as locks:
            complete = _get(items, locks, hub=hub, ref=wanted, revision=repository.revision, on_progress=on_progress)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise MinerError(
                "The disk of the models directory is full.",
                hint="Pull again when there is room: the download continues where it stopped.",
                operator_hint=f"Make room in {directory}, or set MODELS_DIR to another disk.",
            ) from error
        raise MinerError(
            f"The models directory cannot be written: {error.strerror or error}.",
            operator_hint=f"Make {error.filename or directory} writable, or set MODELS_DIR to another directory.",
        ) from error
    model = resolve(f"{wanted.repository}/{chosen.name}", models_dir=directory)
    if complete:
        CreatedModels(directory).note_pulled(model.alias, model.stamps)
    return model


def _wanted(repository: Repository, chosen: FileGroup) -> list[HubFile]:
    """The model's parts, and the projector beside it or at the top of the repository."""
    files = {file.path: file for file in repository.files}
    places = {os.path.dirname(chosen.name), ""}
    projector = projector_choice(name for name in files if os.path.dirname(name) in places)
    return [files[name] for name in (*chosen.files, *([projector] if projector else ()))]


def _plan(ref: HubRef, files: list[HubFile], directory: Path) -> list[_Item]:
    parts = directory / PARTS
    parts.mkdir(parents=True, exist_ok=True)
    items = []
    for file in files:
        # A file that was replaced on the hub has another key, so it does not go on from the old one's part.
        key = hashlib.sha256(f"{ref.repository}/{file.path}/{file.size}/{file.sha256}".encode()).hexdigest()[:40]
        target = directory / ref.owner / ref.repo / file.path
        items.append(_Item(file, target, parts / f"{key}.part", parts / f"{key}.lock"))
    return items


def _get(
    items: list[_Item],
    locks: ExitStack,
    *,
    hub: Hub,
    ref: HubRef,
    revision: str,
    on_progress: Callable[[PullProgress], None] | None,
) -> bool:
    """Download the files that are missing; return whether all were."""
    held: list[Path] = []

    def report(progress: PullProgress) -> None:
        for place in held:
            place.touch()  # waiting processes see that the download is alive
        if on_progress is not None:
            on_progress(progress)

    meter = Meter(sum(item.file.size for item in items), len(items), report)
    for item in sorted(items, key=lambda item: item.lock):  # in one order, so that two pulls cannot block each other
        meter.name(item.file.path)
        lock(locks, item.lock, lambda: meter.at("waiting", 0))
        held.append(item.lock)
    missing = [item for item in items if not _is_there(item, meter)]
    _check_room(missing)
    for item in items:
        meter.begin(item.file.path, item.file.size)
        if item in missing:
            download(hub, ref, revision, item.file, item.part, meter)
            _check_model(item, hub)
        meter.at("done", item.file.size)
    for item in missing:
        item.target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(item.part, item.target)
    return len(missing) == len(items)


def _is_there(item: _Item, meter: Meter) -> bool:
    try:
        if item.target.stat().st_size != item.file.size:
            return False
    except FileNotFoundError:
        return False
    meter.name(item.file.path)
    return item.file.sha256 is None or item.file.sha256 == digest_of(
        item.target, lambda done: meter.at("checking", done)
    )


def _check_room(missing: list[_Item]) -> None:
    needed = sum(item.file.size - min(_size(item.part), item.file.size) for item in missing)
    if not needed:
        return
    place = missing[0].part.parent
    free = shutil.disk_usage(place).free
    if needed + SPARE > free:
        raise MinerError(
            f"The download needs {needed >> 20} MiB, and the disk of the models directory has {free >> 20} MiB free.",
            hint="Choose a smaller quantization.",
            operator_hint=f"Make room in {place.parent}, or set MODELS_DIR to another disk.",
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _check_model(item: _Item, hub: Hub) -> None:
    try:
        read_header(item.part)
    except GGUFError as error:
        item.part.unlink()
        raise BackendProtocolError(
            f"{item.file.path} from {hub.endpoint} is no usable GGUF: {error.reason}.", base_url=hub.endpoint
        ) from error
