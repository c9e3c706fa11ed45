"""The KV cache of each layer for a context, from the model's header.

Architectures that look back over a window only, or keep a state instead of a cache, are recognised as in
llama.cpp: by their metadata where there is any, else by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from miner.core.models.gguf.ggml_types import TENSOR_TYPES
from miner.core.models.gguf.header import GGUFHeader

ENCODERS: Final = frozenset(
    """bert nomic-bert nomic-bert-moe jina-bert-v2 jina-bert-v3 neo-bert modern-bert xlm-roberta gemma-embedding
    t5encoder""".split()
)
"""Models that only embed: `llama_model::create_memory` gives them no KV cache, and they pool by default."""

SWA_PERIODS: Final = {
    "gemma2": 2, "gemma3": 6, "gemma3n": 5, "cohere2": 4, "gpt-oss": 2, "llama4": 4, "exaone4": 4, "olmo2": 4,
    "smallthinker": 4, "afmoe": 4, "plamo3": 8,
}  # fmt: skip
"""Every so many layers one has no sliding window; for files that do not say so (`sliding_window_pattern`)."""

PAD = 256
"""Cells of a cache come in steps of this many tokens."""

TYPE_NAMES = {name: (block, size) for name, block, size in TENSOR_TYPES.values()}


@dataclass(frozen=True, slots=True)
class CacheShape:
    """Bytes of the cache, by what they grow with."""

    full: int
    """Bytes per token of a slot's context."""
    windowed: int
    """Bytes per token of the window."""
    window: int
    """Tokens of the window; 0 without such layers."""
    state: int
    """Bytes per slot, whatever its context."""

    def cells(self, ctx_size: int, batch_size: int) -> tuple[int, int]:
        """Tokens that a slot's full and windowed layers hold."""
        full = padded(ctx_size)
        return full, min(full, padded(self.window + batch_size)) if self.window else 0

    def size(self, ctx_size: int, batch_size: int) -> int:
        """Bytes of one slot."""
        full, windowed = self.cells(ctx_size, batch_size)
        return self.full * full + self.windowed * windowed + self.state

    def checkpoint(self, ctx_size: int, batch_size: int) -> int:
        """Bytes of a context checkpoint: windowed layers and states, which cannot be cut back to an earlier token."""
        return self.windowed * min(self.cells(ctx_size, batch_size)[1], self.window) + self.state


def padded(tokens: int) -> int:
    """The next multiple of what llama.cpp rounds contexts up to."""
    return -(-tokens // PAD) * PAD


def type_bytes(name: str, values: int) -> int:
    """Bytes of so many values in a type such as f16 or q8_0.

    Raises:
        ValueError: there is no such type.
    """
    known = TYPE_NAMES.get(name.upper())
    if known is None:
        raise ValueError(f"{name!r} is not a type of numbers that llama.cpp has")
    block, size = known
    return -(-values // block) * size


def cache_shape(header: GGUFHeader, *, cache_type_k: str = "f16", cache_type_v: str = "f16") -> CacheShape:
    """The cache of all layers of the header."""
    layers = header.block_count or 0
    if header.architecture in ENCODERS or not layers:
        return CacheShape(0, 0, 0, 0)
    kv_heads = header.kv_head_counts or ()
    key, value = header.key_length or 0, header.value_length or 0
    if header.number("{arch}.attention.key_length_mla"):
        value = 0  # these keep one latent vector and read keys and values from it
    window = (header.sliding_window or 0) if _windows(header) else 0
    state = _state(header)
    full = windowed = states = 0
    for layer in range(layers):
        heads = kv_heads[layer] if layer < len(kv_heads) else 0
        if not heads or _is_recurrent(header, layer):
            states += state
            continue
        size = type_bytes(cache_type_k, heads * key) + type_bytes(cache_type_v, heads * value)
        if window and _is_windowed(header, layer):
            windowed += size
        else:
            full += size
    return CacheShape(full, windowed, window if windowed else 0, states)


def _windows(header: GGUFHeader) -> bool:
    stated = f"{header.architecture}.attention.sliding_window_pattern" in header.metadata
    return stated or header.architecture in SWA_PERIODS


def _is_windowed(header: GGUFHeader, layer: int) -> bool:
    pattern = header.metadata.get(f"{header.architecture}.attention.sliding_window_pattern")
    if isinstance(pattern, list):
        return bool(pattern[layer % len(pattern)]) if pattern else False
    period = header.number("{arch}.attention.sliding_window_pattern")
    if period is None:
        period = SWA_PERIODS.get(header.architecture, 1)
    return period == 0 or layer % period < period - 1


def _is_recurrent(header: GGUFHeader, layer: int) -> bool:
    interval = header.number("{arch}.full_attention_interval")
    if interval:
        return (layer + 1) % interval != 0
    return False


def _state(header: GGUFHeader) -> int:
    """Bytes of the state of one recurrent layer for one slot, in 32-bit numbers."""
    width = header.embedding_length or 0
    head = header.number("{arch}.wkv.head_size")
    if head:
        return 4 * (2 * width + width * head)
    kernel = header.number("{arch}.ssm.conv_kernel") or header.number("{arch}.shortconv.l_cache") or 0
    if not kernel:
        return 0
    inner = header.number("{arch}.ssm.inner_size") or width
    depth = header.number("{arch}.ssm.state_size") or 0
    groups = header.number("{arch}.ssm.group_count") or 0
    return 4 * ((kernel - 1) * (inner + 2 * groups * depth) + inner * depth)
