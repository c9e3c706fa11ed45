"""What the files of a model say of it, as a ModelCard."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from miner.core.llms.llamacpp.models import LocalModel
from miner.core.model_card import ModelCard
from miner.core.models.gguf.header import GGUFHeader, read_header
from miner.core.models.gguf.values import GGUFError, Skipped
from miner.core.wire import ModelInfo

_LONG = 5
"""Elements from which an array is left out, as by Ollama."""
_ELSEWHERE = ("general.name", "tokenizer.chat_template")
"""Keys that have a field of their own."""


def card_of(model: LocalModel, info: ModelInfo, template: str | None, *, verbose: bool) -> ModelCard:
    """The card of a model. Blocks: reads files.

    Args:
        template: the chat template that the settings put in the place of the model's own.
        verbose: with the long arrays.
    """
    recipe, header = model.recipe, model.header
    shown = _whole(model.files.path, header) if verbose else header
    licenses = [header.text("general.license") or ""]
    card = ModelCard(
        info=info,
        template=(recipe.template if recipe is not None else "") or template or header.chat_template or "",
        licenses=[text for text in licenses if text],
        metadata=_metadata(shown, verbose=verbose) | {"general.parameter_count": header.parameters},
        projector=_projector(model.files.mmproj, verbose=verbose),
        tensors=[{"name": one.name, "type": one.type, "shape": list(one.shape)} for one in header.tensors],
    )
    if recipe is not None:
        card.system, card.parameters, card.messages = recipe.system, recipe.parameters, recipe.messages
        card.licenses, card.parent = recipe.licenses or card.licenses, recipe.parent
    return card


def _whole(path: Path, header: GGUFHeader) -> GGUFHeader:
    try:
        return read_header(path, whole=True)
    except GGUFError:  # its arrays are too long
        return header


def _projector(path: Path | None, *, verbose: bool) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return _metadata(read_header(path, whole=verbose), verbose=verbose)
    except GGUFError:
        return {}


def _metadata(header: GGUFHeader, *, verbose: bool) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for key, value in sorted(header.metadata.items()):
        if key in _ELSEWHERE:
            continue
        if isinstance(value, Skipped) or (isinstance(value, list) and len(value) > _LONG and not verbose):
            metadata[key] = None
        else:
            metadata[key] = [_number(item) for item in value] if isinstance(value, list) else _number(value)
    return metadata


def _number(value: Any) -> Any:
    """A number of 32 bits with as many digits as it needs: 0.00001 is stored as 9.999999747378752e-06."""
    if not isinstance(value, float) or value != value or abs(value) > 3e38:
        return value if not isinstance(value, float) or abs(value) < float("inf") else None
    stored = struct.pack("<f", value)
    if struct.unpack("<f", stored)[0] != value:
        return value
    return next(short for digits in range(6, 18) if struct.pack("<f", short := float(f"{value:.{digits}g}")) == stored)
