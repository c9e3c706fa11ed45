"""From the settings and a model's name to the engine that serves it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from miner.core.engine.settings import CONTEXT_CHECKPOINTS
from miner.core.engine.spec import EngineSpec
from miner.core.models.find import LocatedModel, default_models_dir, list_local, resolve
from miner.core.models.gguf import GGUFError, GGUFHeader, read_model
from miner.core.models.memory import Memory, gpu_is_likely
from miner.core.models.verdict import Load
from miner.core.wire import ModelInfo
from miner.errors import ConfigError, EngineStartError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig

__all__ = [
    "DEFAULT_CONTEXT",
    "LocalModel",
    "find_model",
    "fitting_slots",
    "known_models",
    "load_of",
    "model_info",
    "models_folder",
    "spec_of",
]

DEFAULT_CONTEXT = 4096
"""Tokens of a slot, where neither the settings nor a shorter trained length say otherwise."""
DEFAULT_PARALLEL = 8
_CPU_BATCH = 128
_GPU_BATCH = 512
_EMBEDDING_ARCHITECTURES = (
    "bert",
    "nomic-bert",
    "jina-bert-v2",
    "xlm-roberta",
    "modern-bert",
    "gemma-embedding",
    "t5encoder",
)
_POOLING = ("none", "mean", "cls", "last", "rank")


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model's files with what their header says."""

    files: LocatedModel
    header: GGUFHeader

    @property
    def alias(self) -> str:
        """The name under which it is served."""
        return self.files.alias


def find_model(name: str | None, settings: MinerConfig) -> LocalModel:
    """The model that a name means, None being the default, with its header read.

    Raises:
        ModelNotFoundError: there is none, or several.
        EngineStartError: the file is there and is no usable model.
    """
    files = resolve(
        name,
        model_path=settings.model_path,
        models_dir=models_folder(settings),
        default_model=settings.default_model,
    )
    try:
        stamps = tuple((part, part.stat().st_mtime_ns, part.stat().st_size) for part in files.parts)
        return LocalModel(files, _header(stamps))
    except (GGUFError, OSError) as error:
        raise EngineStartError(
            f"{files.path} is no usable model: {error}.",
            backend="llamacpp",
            retryable=False,
            hint="Is the file complete, and a GGUF? Fetch it again, or name another one with MODEL_PATH.",
        ) from error


@lru_cache(maxsize=64)
def _header(stamps: tuple[tuple[Path, int, int], ...]) -> GGUFHeader:
    """The header of a model's files as they were at that time; reading one takes tens of milliseconds."""
    return read_model([path for path, _, _ in stamps])


def known_models(settings: MinerConfig) -> Iterable[LocatedModel]:
    """All that can be named."""
    return list_local(models_dir=models_folder(settings), model_path=settings.model_path)


def models_folder(settings: MinerConfig) -> Path:
    """Where models are looked for, and pulled to."""
    return Path(settings.models_dir).expanduser() if settings.models_dir else default_models_dir()


def spec_of(model: LocalModel, settings: MinerConfig, *, parallel: int) -> EngineSpec:
    """How the settings want this model to be run, with so many slots where they do not say."""
    trained = model.header.context_length
    ctx_size = settings.llamacpp_ctx_size or min(DEFAULT_CONTEXT, trained or DEFAULT_CONTEXT)
    if trained is not None:
        ctx_size = min(ctx_size, trained)
    pooling = settings.llamacpp_pooling or _pooling_of(model.header)
    return EngineSpec(
        model_path=model.files.path,
        alias=model.alias,
        ctx_size=ctx_size,
        parallel=settings.llamacpp_parallel or parallel,
        threads=settings.llamacpp_threads,
        n_gpu_layers=settings.llamacpp_n_gpu_layers,
        flash_attn=settings.llamacpp_flash_attn,
        cache_type_k=settings.llamacpp_cache_type_k,
        cache_type_v=settings.llamacpp_cache_type_v,
        # A text that is embedded must fit into one batch.
        batch_size=ctx_size if pooling is not None else settings.llamacpp_batch_size or _batch_of(settings),
        pooling=pooling,
        mmproj=model.files.mmproj,
        chat_template=_template(settings.llamacpp_chat_template),
    )


def _batch_of(settings: MinerConfig) -> int:
    """Processors compute no faster with more, and who leaves while a prompt is read waits for the end of a batch."""
    return _GPU_BATCH if settings.llamacpp_n_gpu_layers != 0 and gpu_is_likely() else _CPU_BATCH


def _pooling_of(header: GGUFHeader) -> str | None:
    """Embedding models say how their vectors are made."""
    kind = header.pooling_type
    if kind is not None and 0 < kind < len(_POOLING):
        return _POOLING[kind]
    return "mean" if header.architecture in _EMBEDDING_ARCHITECTURES else None


def _template(file: str | None) -> str | None:
    if file is None:
        return None
    try:
        return Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"LLAMACPP_CHAT_TEMPLATE={file!r}: cannot be read: {error}.") from error


def load_of(spec: EngineSpec) -> Load:
    """The same in the words of the memory estimate."""
    return Load(
        ctx_size=spec.ctx_size,
        parallel=spec.parallel,
        cache_type_k=spec.cache_type_k or "f16",
        cache_type_v=spec.cache_type_v or "f16",
        batch_size=spec.batch_size,
        mmproj_bytes=spec.mmproj.stat().st_size if spec.mmproj else 0,
        n_gpu_layers=spec.n_gpu_layers,
        flash_attn=spec.flash_attn != "off",
        checkpoints=CONTEXT_CHECKPOINTS,
    )


def fitting_slots(model: LocalModel, settings: MinerConfig, memory: Memory, *, most: int | None = None) -> int:
    """Slots by default: as many as measure best, fewer where their memory is more than half of what is free.

    Args:
        most: what the engine can do at all; None: any number.
    """
    free = memory.available
    slots = min(DEFAULT_PARALLEL, most or DEFAULT_PARALLEL)
    while slots > 1 and free is not None:
        if load_of(spec_of(model, settings, parallel=slots)).estimate(model.header).ram <= free // 2:
            break
        slots //= 2
    return slots


def model_info(model: LocalModel, spec: EngineSpec, *, loaded: bool, capabilities: frozenset[str] | None) -> ModelInfo:
    """What a caller sees of it."""
    header = model.header
    # Not the path: clients of a gateway see this.
    aliases = {header.name, model.files.path.stem, model.files.path.name} - {None, model.alias}
    return ModelInfo(
        id=model.alias,
        aliases=sorted(alias for alias in aliases if alias),
        context_length=spec.ctx_size,
        capabilities=capabilities,
        loaded=loaded,
        size=model.files.size,
        parameters=header.parameters,
        quantization=header.quantization,
        architecture=header.architecture,
        dimensions=header.embedding_length,
    )
