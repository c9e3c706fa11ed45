"""The vision or audio projector (`mmproj`) of a model: the matching one in its directory.

A projector only adds abilities. One that is broken or made for another model is skipped, never an error.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

from miner.core.models.directory import Stamp, stamp_of
from miner.core.models.gguf.header import read_header
from miner.core.models.gguf.values import GGUFError
from miner.core.models.names import group, is_projector, model_stem, projector_choice, quantization_in

logger = logging.getLogger(__name__)

_unusable: set[Stamp] = set()
"""Files that are no projectors, or that an engine could not load; one warning was logged for each."""
_GENERIC = {"", "model", "f16", "bf16", "q8_0", "f32"}
"""Projectors' names, apart from `mmproj`, that name no model."""


class Neighbours:
    """The GGUF files of one directory, sorted once for all the models in it."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.projectors = [name for name in names if is_projector(name)]

        self._owners: dict[str, frozenset[str]] = {}

    @cached_property
    def models(self) -> list[str]:
        """Names of the files that are models."""
        return [item.name for item in group(self.names)]

    def owners(self, projector: str) -> frozenset[str]:
        """The models that a projector's name contains."""
        known = self._owners.get(projector)
        if known is None:
            base = _base(projector)
            named = () if base in _GENERIC else (model for model in self.models if _is_named_for(base, model))
            known = self._owners[projector] = frozenset(named)
        return known


def projector_for(model: Path, near: Neighbours) -> Path | None:
    """The projector that is made for the model; F16 before other types.

    Args:
        near: The GGUF files in the model's directory.
    """
    fitting = [name for name in near.projectors if _fits(model, model.parent / name)]
    if not fitting:
        return None
    model_name = model_stem(model.name)
    own = [name for name in fitting if model_name in near.owners(name)]
    chosen = projector_choice(own or [name for name in fitting if not near.owners(name)])
    return model.parent / chosen if chosen else None


def refuse_projector(projector: Path, reason: str) -> None:
    """Do not use this file until it changes, with one warning: an engine has refused it."""
    try:
        stamp = stamp_of(projector)
    except OSError:
        return
    _leave_out(stamp, reason)


def _is_named_for(base: str, model: str) -> bool:
    own = _base(model)
    return base in model.lower() or (bool(own) and own in base)


def _base(name: str) -> str:
    stem = model_stem(name).lower()
    quantization = quantization_in(name)
    bare = re.sub(r"mmproj", "", stem)
    if quantization is not None:
        bare = re.sub(rf"[-._]?(?:ud[-_])?{re.escape(quantization.lower().removeprefix('ud-'))}(?=$|[-._])", "", bare)
    return bare.strip("-._ ")


def _fits(model: Path, projector: Path) -> bool:
    # A directory may hold several models: a projector is as wide as the model that it was made for.
    try:
        stamp = stamp_of(projector)
    except OSError:
        return False
    if stamp in _unusable:
        return False
    try:
        width = _width_of_projector(stamp)
    except (GGUFError, OSError) as error:
        _leave_out(stamp, getattr(error, "reason", None) or str(error))
        return False
    try:
        return width is None or width == _width_of_model(stamp_of(model))
    except (GGUFError, OSError):
        return False  # the model's own error, which is raised for the model


@lru_cache(maxsize=4096)
def _width_of_projector(stamp: Stamp) -> int | None:
    header = read_header(stamp[0])
    if header.architecture != "clip" and not any(key.startswith("clip.") for key in header.metadata):
        raise GGUFError(header.path, f"it is a model of the architecture {header.architecture!r}, not a projector")
    return header.number("clip.vision.projection_dim") or header.number("clip.audio.projection_dim")


@lru_cache(maxsize=4096)
def _width_of_model(stamp: Stamp) -> int | None:
    return read_header(stamp[0]).embedding_length


def _leave_out(stamp: Stamp, reason: str) -> None:
    if stamp not in _unusable:
        _unusable.add(stamp)
        logger.warning("The projector %s is not used: %s. Models beside it take text alone.", stamp[0], reason)
