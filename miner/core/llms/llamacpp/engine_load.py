"""A spec as input of the memory estimate: what its options and its flags mean for memory."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from miner.core.engine.flags.values import (
    EXPERTS,
    cpu_feed_forward,
    cpu_layers,
    integer,
    on_or_off,
    tensor_overrides,
    tensor_split,
)
from miner.core.engine.launch_arguments import CONTEXT_CHECKPOINTS
from miner.core.engine.spec import EngineSpec
from miner.core.models.directory import Stamp
from miner.core.models.gguf.header import GGUFHeader, read_model
from miner.core.models.gguf.values import GGUFError
from miner.core.models.memory.estimate import Draft, Load, draft_of
from miner.errors import EngineStartError


def load_of(spec: EngineSpec) -> Load:
    """The load of an engine. Blocks where it has a draft model, whose header is read: not for an event loop.

    Raises:
        EngineStartError: the draft model is no usable model.
    """
    checkpoints, fit, split = spec.flag("ctx-checkpoints"), spec.flag("fit"), spec.flag("tensor-split")
    load = Load(
        ctx_size=spec.ctx_size,
        parallel=spec.parallel,
        cache_type_k=spec.cache_type_k or "f16",
        cache_type_v=spec.cache_type_v or "f16",
        batch_size=spec.batch_size,
        mmproj_bytes=spec.mmproj_bytes,
        n_gpu_layers=spec.n_gpu_layers,
        flash_attn=spec.flash_attn != "off",
        checkpoints=CONTEXT_CHECKPOINTS if checkpoints is None else integer(0)(checkpoints),
        prompt_cache=spec.cache_ram_mib << 20,
        adapters=spec.lora_bytes,
        swa_full=spec.flag("swa-full") is True,
        repack=spec.flag("repack") is not False,
        kv_offload=spec.flag("kv-offload") is not False,
        mmproj_offload=spec.flag("mmproj-offload") is not False and spec.flag("mmproj-device") != "none",
        cpu_tensors=_cpu_tensors(spec),
        fits_itself=fit is None or on_or_off(fit),
        split=() if split is None else tuple(tensor_split(split)),
        single_gpu=integer(0)(spec.flag("main-gpu") or 0) if spec.flag("split-mode") == "none" else None,
    )
    return load if spec.spec_draft_model is None else replace(load, draft=_draft(spec, load))


def _cpu_tensors(spec: EngineSpec) -> tuple[str, ...]:
    """Patterns of the tensors that stay in main memory."""
    rules = []
    overrides, dense = spec.flag("override-tensor"), spec.flag("n-cpu-ffn")
    if overrides is not None:
        rules += tensor_overrides(overrides).split(",")
    if dense is not None:
        rules += cpu_feed_forward(dense).split(",")
    if spec.cpu_moe:
        rules.append(f"{EXPERTS}=CPU")
    elif spec.n_cpu_moe:
        rules += cpu_layers(spec.n_cpu_moe).split(",")
    split = [rule.rpartition("=") for rule in rules if rule]
    return tuple(pattern for pattern, _, place in split if place.upper().startswith("CPU"))


def _draft(spec: EngineSpec, load: Load) -> Draft:
    kinds = spec.flag("spec-draft-type-k"), spec.flag("spec-draft-type-v")
    own = replace(
        load,
        cache_type_k=str(kinds[0] or "f16"),
        cache_type_v=str(kinds[1] or "f16"),
        n_gpu_layers=spec.spec_draft_ngl,
        cpu_tensors=(),
    )
    try:
        return draft_of(_header(spec.draft_files), own)
    except GGUFError as error:
        raise EngineStartError(
            f"The draft model {error.path} is no usable model: {error.reason}.",
            backend="llamacpp",
            retryable=False,
            operator_hint="Is the file complete, and a GGUF? Name another with LLAMACPP_SPEC_DRAFT_MODEL.",
        ) from error


@lru_cache(maxsize=16)
def _header(stamps: tuple[Stamp, ...]) -> GGUFHeader:
    return read_model([Path(stamp[0]) for stamp in stamps])
