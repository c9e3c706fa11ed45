"""Deleting the files of a model in the models directory."""

from __future__ import annotations

from pathlib import Path

from miner.core.models.directory import beside
from miner.core.models.names import group
from miner.core.models.resolve import LocatedModel
from miner.errors import MinerError


def remove_files(model: LocatedModel, models_dir: Path) -> int:
    """Delete a model's files, its projector where no other model is beside it, and directories that are empty then.
    Return the bytes that are free again.

    Raises:
        MinerError: a file cannot be deleted.
    """
    files = list(model.parts)
    others = [item for item in group(beside(model.path)) if model.path.name not in item.files]
    if model.mmproj and not others:
        files.append(model.mmproj)
    freed = 0
    try:
        for file in files:
            status = file.lstat()
            file.unlink()
            freed += status.st_size if status.st_nlink == 1 else 0
        _remove_empty(model.path.parent, models_dir)
    except OSError as error:
        raise MinerError(f"Cannot delete {error.filename}: {error.strerror}.") from error
    return freed


def _remove_empty(directory: Path, models_dir: Path) -> None:
    root = models_dir.resolve()
    while directory.resolve() != root and root in directory.resolve().parents and not any(directory.iterdir()):
        directory.rmdir()
        directory = directory.parent
