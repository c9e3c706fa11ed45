"""Slots and context chosen from the memory at hand: long slots before many, and never all of a machine."""

from __future__ import annotations

import os

import pytest

from miner.core.models.gguf.header import read_header
from miner.core.models.memory.available import Memory
from miner.core.models.memory.capacity import choose_capacity
from miner.core.models.memory.estimate import Load
from miner.core.models.memory.verdict import placed
from tests.core.models.conftest import make_gguf

GIB = 1 << 30
QWEN3_4B = {"layers": 36, "heads": 8, "width": 2560, "trained": 40_960, "weights": 2.5}
LLAMA_8B = {"layers": 32, "heads": 8, "width": 4096, "trained": 131_072, "weights": 4.9}
GEMMA3_4B = {
    "layers": 34,
    "heads": 4,
    "width": 2560,
    "trained": 131_072,
    "weights": 2.5,
    "window": 1024,
    "arch": "gemma3",
}
SMOL = {"layers": 30, "heads": 3, "width": 576, "trained": 8192, "weights": 0.1, "size": 64}


@pytest.fixture
def header(tmp_path):
    """A model's header by its numbers; the weights in GiB."""

    def make(*, layers, heads, width, trained, weights, window=None, arch="llama", size=128):
        settings = {
            "general.architecture": arch, f"{arch}.block_count": layers, f"{arch}.embedding_length": width,
            f"{arch}.feed_forward_length": 4 * width, f"{arch}.context_length": trained,
            f"{arch}.attention.head_count": 32, f"{arch}.attention.head_count_kv": heads,
            f"{arch}.attention.key_length": size, f"{arch}.attention.value_length": size,
            f"{arch}.attention.sliding_window": window,
        }  # fmt: skip
        rows = int(weights * GIB / 4 / layers / 256)
        tensors = {"token_embd.weight": (64, 64), "output.weight": (64, 64)}
        tensors |= {f"blk.{layer}.ffn_up.weight": (rows, 256) for layer in range(layers)}
        file = tmp_path / "model.gguf"
        file.write_bytes(make_gguf(settings, tensors))
        os.truncate(file, int((weights + 0.1) * GIB))
        return read_header(file)

    return make


def load(ctx_size: int, parallel: int, *, gpu: bool = False) -> Load:
    return Load(ctx_size, parallel, batch_size=128, n_gpu_layers=None if gpu else 0, checkpoints=4)


def engines(free: float, *cards: float) -> Memory:
    """Memory of a machine with so many GiB free: what all engines may take of it."""
    return Memory(int(free * 0.8 * GIB), int(free * GIB), tuple(int(card * GIB) for card in cards))


@pytest.mark.parametrize(
    ("model", "free", "slots", "tokens"),
    [
        (SMOL, 19, 8, 8192),
        (SMOL, 3, 7, 8192),
        (QWEN3_4B, 19, 1, 40_960),
        (QWEN3_4B, 60, 6, (32_768, 40_960)),
        (QWEN3_4B, 200, 8, 40_960),
        (LLAMA_8B, 19, 1, (32_768, 65_536)),
        (LLAMA_8B, 12, 1, 32_768),  # more than half of what is free: one slot is worth it
        (GEMMA3_4B, 19, (4, 8), (32_768, 131_072)),  # windows make its cache small
    ],
)
def test_long_slots_come_before_many(header, model, free, slots, tokens):
    read, memory = header(**model), engines(free)
    chosen = choose_capacity(read, load, memory, slots=8, longest=model["trained"])
    low, high = slots if isinstance(slots, tuple) else (slots, slots)
    assert low <= chosen.parallel <= high
    low, high = tokens if isinstance(tokens, tuple) else (tokens, tokens)
    assert low <= chosen.ctx_size <= high
    assert not chosen.short
    assert (chosen.why == "as long as it was trained for") == (chosen.ctx_size == model["trained"])
    needed = placed(read, load(chosen.ctx_size, chosen.parallel), memory).ram
    assert needed <= memory.available
    if chosen.parallel > 1 or chosen.ctx_size > 32_768:
        assert needed <= free * GIB / 2


def test_where_not_even_one_long_slot_fits_it_gets_what_does(header):
    read, memory = header(**QWEN3_4B), engines(6)
    chosen = choose_capacity(read, load, memory, slots=8, longest=40_960)
    assert (chosen.parallel, chosen.short, chosen.why) == (1, True, "what fits into memory")
    assert 8192 < chosen.ctx_size < 32_768
    assert placed(read, load(chosen.ctx_size, 1), memory).ram <= memory.available
    assert placed(read, load(chosen.ctx_size + 256, 1), memory).ram > memory.available


def test_slots_that_are_set_are_kept(header):
    read = header(**QWEN3_4B)
    many = choose_capacity(read, load, engines(60), slots=16, longest=40_960, fixed_slots=True)
    assert (many.parallel, many.short) == (16, True)
    one = choose_capacity(read, load, engines(60), slots=1, longest=40_960, fixed_slots=True)
    assert (one.parallel, one.ctx_size) == (1, 40_960)


def test_more_slots_never_push_layers_off_a_card(header):
    read, memory = header(**LLAMA_8B), engines(60, 24)
    chosen = choose_capacity(read, lambda ctx, slots: load(ctx, slots, gpu=True), memory, slots=8, longest=131_072)
    where = placed(read, load(chosen.ctx_size, chosen.parallel, gpu=True), memory)
    assert where.layers == 33
    assert chosen.parallel >= 2
    assert chosen.ctx_size >= 32_768
    assert where.gpus[0] <= 24 * GIB * 5 / 8


def test_a_model_larger_than_all_memory_gets_one_short_slot_and_is_refused_later(header):
    chosen = choose_capacity(header(**LLAMA_8B), load, engines(3), slots=8, longest=131_072)
    assert (chosen.parallel, chosen.short) == (1, True)


@pytest.mark.parametrize(("trained", "slots", "tokens"), [(2048, 8, 2048), (8192, 4, 8192), (131_072, 1, 32_768)])
def test_where_the_free_memory_is_unknown_all_slots_together_stay_small(header, trained, slots, tokens):
    read = header(**QWEN3_4B | {"trained": trained})
    chosen = choose_capacity(read, load, Memory(None, None), slots=8, longest=trained)
    assert (chosen.parallel, chosen.ctx_size) == (slots, tokens)


def test_a_tiny_model(header):
    chosen = choose_capacity(header(**SMOL | {"trained": 64}), load, engines(8), slots=8, longest=64)
    assert (chosen.parallel, chosen.ctx_size) == (8, 64)
