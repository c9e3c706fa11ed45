"""The memory in which an engine keeps the prompts of more conversations than it has slots (`--cache-ram`)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from miner.core.engine.launchers import Launcher, LlamaCppPythonLauncher
from miner.core.engine.spec import EngineSpec
from miner.core.llms.llamacpp.engine_load import load_of
from miner.core.models.gguf.header import GGUFHeader
from miner.core.models.memory.available import Memory
from miner.core.models.memory.kv_cache import cache_shape
from miner.core.models.memory.verdict import placed

if TYPE_CHECKING:
    from miner.config.config import MinerConfig

_MIB = 1 << 20
_MOST_MIB = 8192
"""llama.cpp's own default."""
_SHARE = 4
"""The cache takes at most the n-th part of what the model leaves."""


def with_prompt_cache(
    spec: EngineSpec, header: GGUFHeader, settings: MinerConfig, memory: Memory, launcher: Launcher | None
) -> EngineSpec:
    """The spec with its prompt cache: LLAMACPP_CACHE_RAM, else as much as the slots' own cache and one more, so that
    twice as many conversations as slots are kept, at most a quarter of the memory that the model leaves, and 8 GiB.

    Args:
        memory: for all engines together.
    """
    if spec.pooling is not None or isinstance(launcher, LlamaCppPythonLauncher):
        return spec
    if settings.llamacpp_cache_ram is not None:
        return replace(spec, cache_ram_mib=settings.llamacpp_cache_ram)
    most = (spec.parallel + 1) * state_bytes(spec, header, spec.ctx_size) // _MIB
    if memory.available is not None:
        left = memory.available - placed(header, load_of(spec), memory).ram
        most = min(most, max(left, 0) // _SHARE // _MIB)
    return replace(spec, cache_ram_mib=min(most, _MOST_MIB))


def state_bytes(spec: EngineSpec, header: GGUFHeader, tokens: int) -> int:
    """Bytes of the saved state of a prompt of so many tokens."""
    load = load_of(spec)
    shape = cache_shape(header, cache_type_k=load.cache_type_k, cache_type_v=load.cache_type_v)
    window = min(tokens, shape.cells(spec.ctx_size, spec.batch_size)[1]) if shape.window else 0
    checkpoints = load.checkpoints * shape.checkpoint(spec.ctx_size, spec.batch_size)
    return shape.full * tokens + shape.windowed * window + shape.state + checkpoints
