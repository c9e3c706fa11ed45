"""What a models folder holds, and what lies beside a model's file."""

from __future__ import annotations

import logging
import os
from functools import lru_cache
from pathlib import Path

from miner.core.models.gguf import GGUFError, GGUFHeader, read_header
from miner.core.models.names import SUFFIX, FileGroup, group, is_projector, projector_choice

__all__ = ["beside", "cached_header", "projector_for", "scan"]

logger = logging.getLogger(__name__)

# A models folder that is really a home or a whole disk must not hold anybody up.
MAX_DEPTH = 5
MAX_FOLDERS = 5_000


def scan(folder: Path) -> list[FileGroup]:
    """The models in the folder and below it; links that lead out of it are not followed."""
    names: list[str] = []
    root = os.path.realpath(folder)
    for count, (current, folders, files) in enumerate(os.walk(root)):
        if count >= MAX_FOLDERS:
            logger.warning("The models folder %s has more than %d folders: the rest is not read.", folder, MAX_FOLDERS)
            break
        below = os.path.relpath(current, root)
        deep = below != os.curdir and below.count(os.sep) + 1 >= MAX_DEPTH
        folders[:] = [] if deep else sorted(item for item in folders if not item.startswith("."))
        for file in files:
            if not file.lower().endswith(SUFFIX) or file.startswith("."):
                continue
            whole = os.path.join(current, file)
            if os.path.isfile(whole) and os.path.realpath(whole).startswith(os.path.join(root, "")):
                names.append(os.path.relpath(whole, root).replace(os.sep, "/"))
    return group(names)


def beside(path: Path) -> list[str]:
    """Names of the GGUF files in the folder of `path`."""
    try:
        return [entry.name for entry in os.scandir(path.parent) if entry.name.lower().endswith(SUFFIX)]
    except OSError:
        return []


def cached_header(path: Path) -> GGUFHeader:
    """The header of a file, read again only when the file has changed.

    Raises:
        GGUFError: it is not a GGUF file that can be read.
        OSError: it is not there.
    """
    status = path.stat()
    return _header_at(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=32)
def _header_at(path: Path, _changed: int, _size: int) -> GGUFHeader:
    return read_header(path)


def projector_for(model: Path) -> Path | None:
    """The projector in the model's folder that is made for the model."""
    names = [name for name in beside(model) if is_projector(name)]
    fitting = [name for name in names if _fits(model, model.parent / name)]
    chosen = projector_choice(fitting)
    return model.parent / chosen if chosen else None


def _fits(model: Path, projector: Path) -> bool:
    # A folder may hold several models: a projector is as wide as the model that it was made for.
    try:
        theirs = cached_header(projector)
        width = theirs.number("clip.vision.projection_dim") or theirs.number("clip.audio.projection_dim")
        return width is None or width == cached_header(model).embedding_length
    except GGUFError:
        return True  # the engine will say what is wrong with it
