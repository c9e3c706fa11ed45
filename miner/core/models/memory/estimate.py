"""What a model will take in memory, from its header alone, before anything is loaded.

The parts are those that llama.cpp allocates, with its own rules; the constants were measured on its CPU build. All
sizes are bytes, all contexts tokens of one slot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from miner.core.models.gguf.header import GGUFHeader, Skipped, Tensor
from miner.core.models.memory.kv_cache import PAD, CacheShape, cache_shape

__all__ = ["Estimate", "estimate", "largest_context"]

MIB = 1 << 20
PROCESS = 40 * MIB
"""An engine process with an empty model: the interpreter, the libraries, the HTTP server."""
TOKEN, MERGE = 230, 280
"""What one entry of the vocabulary, and one merge rule of it, take once loaded."""
SLOT, SLOT_TOKEN = MIB // 4, 13
"""What a slot takes, and a slot for each entry of the vocabulary: candidates to sample from."""
REPACKED = {"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"}
"""Types whose matrices llama.cpp copies into an order that the processor likes better (AVX2, and ARM alike)."""
ALL_LAYERS = 1 << 16


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes that an engine will take."""

    weights: int
    """The model's tensors."""
    repacked: int
    """Second copies of tensors in the processor's order."""
    kv_cache: int
    """Keys, values and states of all slots."""
    compute: int
    """Work space of one batch."""
    projector: int
    """The vision or audio projector with its work space."""
    overhead: int
    """The process, its libraries and the vocabulary."""
    checkpoints: int
    """Copies of windowed layers and states that long conversations may add later."""
    gpu: int
    """Of the weights, the cache, the work space and the projector: what lies in the memory of GPUs."""

    @property
    def total(self) -> int:
        """All but the checkpoints, wherever it lies: without a GPU, the resident memory of the process."""
        return self.weights + self.repacked + self.kv_cache + self.compute + self.projector + self.overhead

    @property
    def ram(self) -> int:
        """What the machine's memory must have free. Repacked tensors count once: the file's copy can be dropped."""
        return self.total - self.repacked + self.checkpoints - self.gpu


def estimate(
    header: GGUFHeader,
    *,
    ctx_size: int,
    parallel: int = 1,
    cache_type_k: str = "f16",
    cache_type_v: str = "f16",
    batch_size: int = 512,
    mmproj_bytes: int = 0,
    n_gpu_layers: int = 0,
    flash_attn: bool = True,
    checkpoints: int = 32,
) -> Estimate:
    """What a llama.cpp server with `parallel` slots of `ctx_size` tokens takes.

    Args:
        header: The model's header, of all parts (`read_model`).
        ctx_size: Tokens of each slot.
        parallel: Slots.
        cache_type_k: Type of the cached keys, such as f16 or q8_0.
        cache_type_v: Type of the cached values.
        batch_size: Tokens that are computed at once (`n_ubatch`).
        mmproj_bytes: Size of the projector's file.
        n_gpu_layers: Layers that a GPU holds; negative: all.
        flash_attn: Whether flash attention is on, as it is by default wherever it is possible.
        checkpoints: Copies that the server may keep of each slot's windowed layers and states (`n_ctx_checkpoints`).

    Raises:
        ValueError: a cache type does not exist.
    """
    shape = cache_shape(header, cache_type_k=cache_type_k, cache_type_v=cache_type_v)
    kv_cache = parallel * shape.size(ctx_size, batch_size)
    compute = _compute(header, shape, ctx_size, parallel, batch_size, flash_attn=flash_attn)
    projector = mmproj_bytes * 5 // 4
    layers = header.block_count or 0
    on_gpu = min(ALL_LAYERS if n_gpu_layers < 0 else n_gpu_layers, layers + 1)
    weights = header.weight_bytes
    gpu_weights = sum(tensor.size for tensor in header.tensors if _layer_of(tensor, layers) >= layers + 1 - on_gpu)
    repacked = 0 if on_gpu else _repacked(header)
    gpu = 0
    if on_gpu:
        gpu = gpu_weights + kv_cache * min(on_gpu, layers) // max(layers, 1) + compute + projector
    return Estimate(
        weights=weights,
        repacked=repacked,
        kv_cache=kv_cache,
        compute=compute,
        projector=projector,
        overhead=_overhead(header, parallel),
        checkpoints=checkpoints * parallel * shape.checkpoint(ctx_size, batch_size),
        gpu=gpu,
    )


def largest_context(fits: Callable[[int], bool], *, limit: int) -> int:
    """The largest context up to `limit` for which `fits` is true, in steps of 256; 0: not even 256.

    `fits` must be true for every context below one for which it is true.
    """
    low, high = 0, limit // PAD
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle * PAD):
            low = middle
        else:
            high = middle - 1
    if low == limit // PAD and limit % PAD and fits(limit):
        return limit
    return low * PAD


def _compute(
    header: GGUFHeader, shape: CacheShape, ctx_size: int, parallel: int, batch_size: int, *, flash_attn: bool
) -> int:
    """The largest set of intermediate results that live at the same time: the feed-forward part's, or attention's."""
    width = header.embedding_length or 0
    heads = max(header.head_counts or (0,), default=0)
    queries = heads * (header.key_length or 0)
    inner = max(header.per_layer("{arch}.feed_forward_length") or (0,), default=0)
    experts, expert_inner = header.number("{arch}.expert_used_count") or 0, 0
    if experts:
        expert_inner = header.number("{arch}.expert_feed_forward_length") or inner
        inner = experts * expert_inner + (header.number("{arch}.expert_shared_feed_forward_length") or 0)
    full, windowed = shape.cells(ctx_size, batch_size)
    feed_forward = 3 * inner + (5 + experts) * width
    attention = 3 * queries + 4 * width + (0 if flash_attn else heads * full)
    tokens = min(batch_size, full * parallel)
    mask = (full + windowed) * (2 if flash_attn else 4)
    outputs = 4 * (header.vocab_size or 0) * parallel
    return tokens * (4 * max(feed_forward, attention) + mask) + outputs


def _overhead(header: GGUFHeader, parallel: int) -> int:
    merges = header.metadata.get("tokenizer.ggml.merges")
    rules = merges.length if isinstance(merges, Skipped) else len(merges) if isinstance(merges, list) else 0
    vocabulary = header.vocab_size or 0
    return PROCESS + TOKEN * vocabulary + MERGE * rules + (SLOT + SLOT_TOKEN * vocabulary) * parallel


def _repacked(header: GGUFHeader) -> int:
    tied = not any(tensor.name == "output.weight" for tensor in header.tensors)
    total = 0
    for tensor in header.tensors:
        matrix = len(tensor.shape) >= 2 and tensor.shape[1] % 8 == 0
        used = tied or not tensor.name.startswith("token_embd.")
        if tensor.type in REPACKED and matrix and used:
            total += tensor.size
    return total


def _layer_of(tensor: Tensor, layers: int) -> int:
    """Layer that a tensor belongs to; what comes after the last one counts as one more, what comes before as -1."""
    head, _, rest = tensor.name.partition(".")
    if head == "blk":
        number = rest.partition(".")[0]
        return int(number) if number.isdecimal() else -1
    return layers if head.startswith("output") else -1
