"""From the settings and a model's name to the spec of the engine that serves it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from miner.config.llamacpp import POOLING_TYPES
from miner.core.engine.flags.check import checked
from miner.core.engine.spec import EngineSpec
from miner.core.llms.llamacpp.engine_load import load_of
from miner.core.llms.llamacpp.extra_files import Extras, extras_of, with_projector
from miner.core.models.catalog import Catalog, Facts
from miner.core.models.created import CreatedModels, Recipe
from miner.core.models.directory import Stamp, default_models_dir, stamp_of
from miner.core.models.gguf.header import GGUFHeader
from miner.core.models.gguf.values import GGUFError
from miner.core.models.memory.available import Memory, gpu_is_likely
from miner.core.models.memory.capacity import AS_TRAINED, ENOUGH, SHARE, Capacity, choose_capacity
from miner.core.models.memory.estimate import Load
from miner.core.models.memory.kv_cache import ENCODERS
from miner.core.models.resolve import LocatedModel
from miner.errors import ConfigError, EngineStartError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig

DEFAULT_PARALLEL = 8
_UNKNOWN_CONTEXT = 4096
"""Tokens of a slot of a model whose file does not say how many it was trained for."""
_LONGEST_TEXT = 8192
"""Tokens of a slot of an engine that embeds: a text is one batch, whose compute buffer grows with its square."""
_CPU_BATCH = 128
_GPU_BATCH = 512


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model's files and their header."""

    files: LocatedModel
    header: GGUFHeader
    facts: Facts
    recipe: Recipe | None = None
    """How it was created from another model here, whose files it has."""
    extras: Extras = field(default=Extras())

    @property
    def alias(self) -> str:
        """Its name."""
        return self.files.alias if self.recipe is None else self.recipe.name

    @property
    def engine_alias(self) -> str:
        """The name that its engine has: without a template of its own it shares that of the model it is made of."""
        return self.alias if self.recipe is not None and self.recipe.template else self.files.alias


def find_model(name: str | None, settings: MinerConfig, catalog: Catalog | None = None) -> LocalModel:
    """The model of this name, None being the default, with its header. Blocks: not for an event loop.

    Raises:
        ModelNotFoundError: there is none, or several.
        EngineStartError: the file is there and is no usable model.
        ConfigError: the settings name a projector, an adapter or a draft model that cannot be used.
    """
    catalog = catalog or Catalog(models_directory(settings))
    alias = alias_of(settings)
    if alias is not None and name is not None and name.lower() in (alias.lower(), f"{alias.lower()}:latest"):
        name = None
    recipe = _recipe_of(name, settings, catalog.created)
    try:
        if recipe is None:
            files = catalog.find(name, model_path=settings.model_path, default_model=settings.default_model)
        elif recipe.blob is not None:
            files = replace(catalog.find(str(catalog.created.blob(recipe.blob))), alias=recipe.name, source="created")
        else:
            files = catalog.find(recipe.base, model_path=settings.model_path, default_model=settings.default_model)
    except OSError as error:
        raise EngineStartError(
            f"{error.filename} cannot be read: {error.strerror}.",
            backend="llamacpp",
            operator_hint="Is it being replaced?",
        ) from error
    if alias is not None and (recipe is None or recipe.blob is None):
        files = replace(files, alias=alias)
    try:
        header = catalog.header(files)
        extras = extras_of(header, settings, catalog)
        return LocalModel(with_projector(files, settings), header, catalog.facts(files), recipe, extras)
    except GGUFError as error:
        raise EngineStartError(
            f"{error.path} is no usable model: {error.reason}.",
            backend="llamacpp",
            retryable=False,
            operator_hint="Is the file complete, and a GGUF? Fetch it again, or name another one with MODEL_PATH.",
        ) from error


def alias_of(settings: MinerConfig) -> str | None:
    """The name of the only model, where the settings give it one."""
    return settings.llamacpp_alias if settings.model_path else None


def _recipe_of(name: str | None, settings: MinerConfig, created: CreatedModels) -> Recipe | None:
    """The recipe of a name, if that is a created model's."""
    if name is None:
        name = None if settings.model_path else settings.default_model
    return created.find(name) if name else None


def models_directory(settings: MinerConfig) -> Path:
    """The directory in which models are found, and to which they are pulled."""
    return Path(settings.models_dir).expanduser() if settings.models_dir else default_models_dir()


def spec_of(model: LocalModel, settings: MinerConfig, *, ctx_size: int, parallel: int) -> EngineSpec:
    """The engine spec of a model under the settings. Blocks: not for an event loop.

    Args:
        ctx_size: tokens of a slot.
        parallel: slots.

    Raises:
        ConfigError: the chat template cannot be read, or a flag is not for flags.
    """
    pooling, draft = pooling_of(model.header, settings), model.extras.draft
    return EngineSpec(
        model_path=model.files.path,
        alias=model.engine_alias,
        ctx_size=ctx_size,
        parallel=parallel,
        threads=settings.llamacpp_threads,
        n_gpu_layers=settings.llamacpp_n_gpu_layers,
        flash_attn=settings.llamacpp_flash_attn,
        cache_type_k=settings.llamacpp_cache_type_k,
        cache_type_v=settings.llamacpp_cache_type_v,
        # A text that is embedded must fit into one batch.
        batch_size=ctx_size if pooling is not None else settings.llamacpp_batch_size or _batch_of(settings),
        pooling=pooling,
        mmproj=model.files.mmproj,
        chat_template=(model.recipe.template if model.recipe is not None else "") or template_text(settings),
        lora=tuple((Path(stamp[0]), scale) for stamp, scale in model.extras.lora),
        cpu_moe=settings.llamacpp_cpu_moe,
        n_cpu_moe=settings.llamacpp_n_cpu_moe,
        spec_type=settings.llamacpp_spec_type,
        spec_draft_model=None if draft is None else draft.path,
        spec_draft_n_max=settings.llamacpp_spec_draft_n_max,
        spec_draft_n_min=settings.llamacpp_spec_draft_n_min,
        spec_draft_p_min=settings.llamacpp_spec_draft_p_min,
        spec_draft_ngl=settings.llamacpp_spec_draft_ngl,
        flags=checked(settings.llamacpp_flags),
        files=(*model.files.stamps, *model.extras.stamps),
        draft_files=() if draft is None else draft.stamps[: len(draft.parts)],
    )


def longest_context(model: GGUFHeader | Facts, settings: MinerConfig) -> int:
    """Tokens that a slot has at most: those of the settings, else those that the model was trained for."""
    trained = model.context_length
    if settings.llamacpp_ctx_size is not None:
        return min(settings.llamacpp_ctx_size, trained or settings.llamacpp_ctx_size)
    longest = trained or _UNKNOWN_CONTEXT
    return longest if pooling_of(model, settings) is None else min(longest, _LONGEST_TEXT)


def pooling_of(model: GGUFHeader | Facts, settings: MinerConfig) -> str | None:
    """The pooling type: that of the settings, else of the file, else of its architecture. None: no embeddings."""
    if settings.llamacpp_pooling:
        return settings.llamacpp_pooling
    kind = model.pooling_type
    if kind is not None and 0 < kind < len(POOLING_TYPES):
        return POOLING_TYPES[kind]
    return "mean" if model.architecture in ENCODERS else None


def _batch_of(settings: MinerConfig) -> int:
    """Batch size for CPUs: larger ones are no faster, and a cancelled request keeps its slot until the batch ends."""
    return _GPU_BATCH if settings.llamacpp_n_gpu_layers != 0 and gpu_is_likely() else _CPU_BATCH


def template_text(settings: MinerConfig) -> str | None:
    """The text of LLAMACPP_CHAT_TEMPLATE, read again where the file has changed.

    Raises:
        ConfigError: it cannot be read.
    """
    file = settings.llamacpp_chat_template
    if file is None:
        return None
    try:
        text = _text_at(stamp_of(Path(file).expanduser()))
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise _no_template(file, f"cannot be read: {reason}") from error
    if not text.strip():
        raise _no_template(file, "is empty")
    return text


def _no_template(file: str, why: str) -> ConfigError:
    return ConfigError(
        f"LLAMACPP_CHAT_TEMPLATE={file!r} {why}.",
        operator_hint="Name a file with a Jinja template, or unset it: the model's own is used then.",
    )


@lru_cache(maxsize=16)
def _text_at(stamp: Stamp) -> str:
    return Path(stamp[0]).read_text(encoding="utf-8")


def capacity_of(
    model: LocalModel, settings: MinerConfig, memory: Memory, *, most: int | None = None, share: float = SHARE
) -> Capacity:
    """Slots and context of a model's engine: those of the settings, else what suits the memory. Blocks: not for an
    event loop.

    Args:
        memory: what all engines together may take.
        most: the engine's maximum of slots; None: any number.
        share: of that memory for this model, where that is enough for a slot.
    """
    ctx_size, parallel = settings.llamacpp_ctx_size, settings.llamacpp_parallel
    longest = longest_context(model.header, settings)
    context, slots = ("context", "slots") if settings.llamacpp_alias else ("LLAMACPP_CTX_SIZE", "LLAMACPP_PARALLEL")
    if ctx_size is not None and parallel is not None:
        return Capacity(longest, parallel, f"{context} and {slots}")
    one = load_of(spec_of(model, settings, ctx_size=longest, parallel=1))
    pools = pooling_of(model.header, settings) is not None

    def load(tokens: int, slots: int) -> Load:
        return replace(one, ctx_size=tokens, parallel=slots, batch_size=tokens if pools else one.batch_size)

    capacity = choose_capacity(
        model.header, load, memory,
        slots=parallel or min(DEFAULT_PARALLEL, most or DEFAULT_PARALLEL), longest=longest,
        enough=longest if ctx_size is not None else ENOUGH, fixed_slots=parallel is not None,
        share=share,
    )  # fmt: skip
    if ctx_size is not None:
        return Capacity(longest, capacity.parallel, context if longest == ctx_size else AS_TRAINED)
    if parallel is not None and capacity.ctx_size < longest:
        return replace(capacity, why=f"{capacity.why} with {slots} = {parallel}")
    return capacity
