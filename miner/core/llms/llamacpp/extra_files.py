"""Files beside a model's own that the settings name: projector, LoRA adapters, draft model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from miner.core.models.catalog import Catalog
from miner.core.models.directory import Stamp, cached_header, stamp_of
from miner.core.models.gguf.header import GGUFHeader
from miner.core.models.gguf.values import GGUFError
from miner.core.models.resolve import LocatedModel
from miner.errors import ConfigError, ModelNotFoundError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig


@dataclass(frozen=True, slots=True)
class Extras:
    """What a model is run with."""

    lora: tuple[tuple[Stamp, float], ...] = ()
    """The adapters, each with its scale."""
    draft: LocatedModel | None = None
    """The draft model."""

    @property
    def stamps(self) -> tuple[Stamp, ...]:
        """Of the adapters."""
        return tuple(stamp for stamp, _ in self.lora)


def with_projector(files: LocatedModel, settings: MinerConfig) -> LocatedModel:
    """The files of a model with the projector that the settings say. Blocks: not for an event loop.

    Raises:
        ConfigError: LLAMACPP_MMPROJ is no projector.
    """
    named = settings.llamacpp_mmproj
    own = files.stamps[: len(files.parts)]
    if settings.llamacpp_no_mmproj:
        if named is not None:
            raise ConfigError(
                f"LLAMACPP_MMPROJ={named!r} and LLAMACPP_NO_MMPROJ=true contradict each other.",
                operator_hint="Set one of them.",
            )
        return files if files.mmproj is None else replace(files, mmproj=None, stamps=own)
    if named is None:
        return files
    stamp, header = _gguf("LLAMACPP_MMPROJ", named, "projector")
    if header.architecture != "clip" and not any(key.startswith("clip.") for key in header.metadata):
        raise ConfigError(
            f"LLAMACPP_MMPROJ={named!r} is no projector, but a model of the architecture {header.architecture!r}.",
            operator_hint="Name the model's mmproj file, or unset it.",
        )
    return replace(files, mmproj=Path(stamp[0]), stamps=(*own, stamp))


def extras_of(model: GGUFHeader, settings: MinerConfig, catalog: Catalog) -> Extras:
    """The adapters and the draft model of the settings, for this model. Blocks: not for an event loop.

    Raises:
        ConfigError: one is not there, or not for this model.
    """
    adapters = tuple((_adapter(path, model), scale) for path, scale in settings.llamacpp_lora or ())
    name, draft = settings.llamacpp_spec_draft_model, None
    if name is not None:
        try:
            draft = catalog.find(name)
        except (ModelNotFoundError, OSError) as error:
            raise ConfigError(
                f"LLAMACPP_SPEC_DRAFT_MODEL={name!r}: {error}",
                operator_hint="Name a .gguf file or a model here; in miner.toml, file or hub of speculation.",
            ) from error
    return Extras(adapters, draft)


def _adapter(file: str, model: GGUFHeader) -> Stamp:
    stamp, header = _gguf("LLAMACPP_LORA", file, "adapter")
    if header.text("general.type") != "adapter":
        raise ConfigError(
            f"LLAMACPP_LORA={file!r} is no adapter, but a model.", operator_hint="Name a LoRA adapter in a .gguf file."
        )
    if header.architecture != model.architecture:
        raise ConfigError(
            f"LLAMACPP_LORA={file!r} is an adapter for {header.architecture}, and the model is {model.architecture}.",
            operator_hint="Name an adapter that was made for this model.",
        )
    return stamp


def _gguf(variable: str, file: str, what: str) -> tuple[Stamp, GGUFHeader]:
    path = Path(file).expanduser().absolute()
    try:
        return stamp_of(path), cached_header(path)
    except OSError as error:
        raise ConfigError(
            f"{variable}={file!r} cannot be read: {error.strerror or error}.", operator_hint="Check the path."
        ) from error
    except GGUFError as error:
        raise ConfigError(
            f"{variable}={file!r} is no usable {what}: {error.reason}.",
            operator_hint="Is the file complete, and a GGUF?",
        ) from error
