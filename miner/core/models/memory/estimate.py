"""Estimates a model's memory from its header alone.

The parts are those that llama.cpp allocates, with its own rules; the constants were measured on its CPU build. All
sizes are bytes, all contexts tokens of one slot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from miner.core._typing import override
from miner.core.models.gguf.header import GGUFHeader
from miner.core.models.gguf.values import Skipped
from miner.core.models.memory.kv_cache import PAD, CacheShape, cache_shape

MIB = 1 << 20
PROCESS = 40 * MIB
"""An engine process with an empty model: the interpreter, the libraries, the HTTP server."""
TOKEN, MERGE = 230, 280
"""Bytes of one vocabulary entry, and of one merge rule, once loaded."""
SLOT, SLOT_TOKEN = MIB // 4, 13
"""Bytes of a slot, and of a slot for each vocabulary entry (candidates to sample from)."""
REPACKED = {"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"}
"""Types whose matrices llama.cpp copies into an order that the processor likes better (AVX2, and ARM alike)."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A draft model: it has a context of its own, as long and with as many slots as the model's."""

    weights: int
    """Bytes of its tensors and its vocabulary."""
    cache: CacheShape
    compute: int
    """Compute buffer of one batch."""
    n_gpu_layers: int | None = None
    """0: it is in main memory; else on the first GPU, where there is one."""

    def size(self, ctx_size: int, parallel: int, batch_size: int) -> int:
        """Bytes of all of it."""
        return self.weights + self.compute + parallel * self.cache.size(ctx_size, batch_size)


@dataclass(frozen=True, slots=True)
class Load:
    """Load parameters of a model."""

    ctx_size: int
    """Tokens of each slot."""
    parallel: int = 1
    """Slots."""
    cache_type_k: str = "f16"
    """Type of the cached keys, such as f16 or q8_0."""
    cache_type_v: str = "f16"
    batch_size: int = 512
    """Tokens that are computed at once (`n_ubatch`)."""
    mmproj_bytes: int = 0
    """Size of the projector's file."""
    n_gpu_layers: int | None = 0
    """Negative: all; None: as many as the engine finds room for, where there is a GPU."""
    flash_attn: bool = True
    """Whether flash attention is on, as it is by default wherever it is possible."""
    checkpoints: int = 32
    """Copies that the server may keep of each slot's windowed layers and states (`n_ctx_checkpoints`)."""
    prompt_cache: int = 0
    """Bytes in which it may keep the prompts of other conversations (`cache_ram_mib`)."""
    adapters: int = 0
    """Bytes of LoRA adapters."""
    draft: Draft | None = None
    swa_full: bool = False
    """Whether layers with a window keep the whole context (`--swa-full`)."""
    repack: bool = True
    """Whether the processor's order of matrices may be used (`--no-repack`)."""
    kv_offload: bool = True
    """Whether the cache of a layer is where the layer is; else in main memory (`--no-kv-offload`)."""
    mmproj_offload: bool = True
    """Whether the projector may be on a GPU."""
    cpu_tensors: tuple[str, ...] = ()
    """Regular expressions of tensors that stay in main memory, such as those of experts (`--override-tensor`)."""
    fits_itself: bool = True
    """Whether llama.cpp chooses the layers where `n_gpu_layers` is None (`--fit`); it does not if it is told how to
    split them, or that some tensors stay in main memory."""
    split: tuple[float, ...] = ()
    """Share of each GPU (`--tensor-split`); empty: by what is free on each."""
    single_gpu: int | None = None
    """The only GPU that is used (`--split-mode none`)."""

    @override
    def __str__(self) -> str:
        return f"{self.parallel} {'slot' if self.parallel == 1 else 'slots'} of {self.ctx_size} tokens"


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
    """Compute buffer of one batch."""
    projector: int
    """The vision or audio projector with its compute buffer."""
    overhead: int
    """The process, its libraries and the vocabulary."""
    checkpoints: int
    """Copies of windowed layers and states that long conversations may add later."""
    prompt_cache: int = 0
    """Prompts of more conversations than there are slots, added later."""
    draft: int = 0
    """The draft model, its cache and its compute buffer."""
    adapters: int = 0
    """LoRA adapters."""
    gpu: int = 0
    """Bytes in GPU memory: parts of the weights, the cache, the compute buffer and the projector."""

    @property
    def total(self) -> int:
        """All but checkpoints and prompt cache, wherever it is: without a GPU, the resident memory of the process."""
        model = self.weights + self.repacked + self.kv_cache + self.compute + self.projector + self.overhead
        return model + self.draft + self.adapters

    @property
    def ram(self) -> int:
        """Free main memory that is needed. Repacked tensors count once: the file's copy can be dropped."""
        return self.total - self.repacked + self.checkpoints + self.prompt_cache - self.gpu


def estimate(header: GGUFHeader, load: Load) -> Estimate:
    """Estimate the memory of a llama.cpp server on the CPU.

    Args:
        header: The model's header, of all parts (`read_model`).

    Raises:
        ValueError: a cache type does not exist.
    """
    shape = _shape(header, load)
    draft = load.draft
    return Estimate(
        weights=header.weight_bytes,
        repacked=_repacked(header) if load.repack else 0,
        kv_cache=load.parallel * shape.size(load.ctx_size, load.batch_size),
        compute=_compute(header, shape, load),
        projector=load.mmproj_bytes * 5 // 4,
        overhead=_overhead(header, load.parallel),
        checkpoints=load.checkpoints * load.parallel * shape.checkpoint(load.ctx_size, load.batch_size),
        prompt_cache=load.prompt_cache,
        draft=0 if draft is None else draft.size(load.ctx_size, load.parallel, load.batch_size),
        adapters=load.adapters,
    )


def draft_of(header: GGUFHeader, load: Load) -> Draft:
    """A draft model beside a load: `load` has the cache types and the layers of the draft model itself."""
    shape = _shape(header, load)
    return Draft(header.weight_bytes + _vocabulary(header), shape, _compute(header, shape, load), load.n_gpu_layers)


def _shape(header: GGUFHeader, load: Load) -> CacheShape:
    shape = cache_shape(header, cache_type_k=load.cache_type_k, cache_type_v=load.cache_type_v)
    return CacheShape(shape.full + shape.windowed, 0, 0, shape.state) if load.swa_full else shape


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


def _compute(header: GGUFHeader, shape: CacheShape, load: Load) -> int:
    """The largest set of intermediate results that live at the same time: the feed-forward part's, or attention's."""
    width = header.embedding_length or 0
    heads = max(header.head_counts or (0,), default=0)
    queries = heads * (header.key_length or 0)
    inner = max(header.per_layer("{arch}.feed_forward_length") or (0,), default=0)
    experts, expert_inner = header.number("{arch}.expert_used_count") or 0, 0
    if experts:
        expert_inner = header.number("{arch}.expert_feed_forward_length") or inner
        inner = experts * expert_inner + (header.number("{arch}.expert_shared_feed_forward_length") or 0)
    full, windowed = shape.cells(load.ctx_size, load.batch_size)
    feed_forward = 3 * inner + (5 + experts) * width
    attention = 3 * queries + 4 * width + (0 if load.flash_attn else heads * full)
    tokens = min(load.batch_size, full * load.parallel)
    mask = (full + windowed) * (2 if load.flash_attn else 4)
    outputs = 4 * (header.vocab_size or 0) * load.parallel
    return tokens * (4 * max(feed_forward, attention) + mask) + outputs


def _overhead(header: GGUFHeader, parallel: int) -> int:
    return PROCESS + _vocabulary(header) + (SLOT + SLOT_TOKEN * (header.vocab_size or 0)) * parallel


def _vocabulary(header: GGUFHeader) -> int:
    merges = header.metadata.get("tokenizer.ggml.merges")
    rules = merges.length if isinstance(merges, Skipped) else len(merges) if isinstance(merges, list) else 0
    return TOKEN * (header.vocab_size or 0) + MERGE * rules


def _repacked(header: GGUFHeader) -> int:
    tied = not any(tensor.name == "output.weight" for tensor in header.tensors)
    total = 0
    for tensor in header.tensors:
        matrix = len(tensor.shape) >= 2 and tensor.shape[1] % 8 == 0
        used = tied or not tensor.name.startswith("token_embd.")
        if tensor.type in REPACKED and matrix and used:
            total += tensor.size
    return total
