"""Which parts of a model are on which GPU, and which in the machine's memory.

As llama.cpp does it: the last layers go to the GPUs, each with its cache, spread over the cards by what is free on
each, the output behind the last one; the token embedding stays. Without `n_gpu_layers`, it takes what fits and leaves
a gibibyte free on each card (`--fit`); of a mixture of experts that does not fit, it keeps all layers there and leaves
the experts of as many as it must in the machine's memory. Sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from miner.core.models.gguf.header import GGUFHeader
from miner.core.models.memory.estimate import Estimate

MARGIN = 1 << 30
"""Bytes that llama.cpp leaves free on each card where it chooses the layers itself."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Bytes of a model in main memory and on each GPU."""

    ram: int
    gpus: tuple[int, ...]
    """Bytes on each card, in order."""
    layers: int
    """Number of layers on cards; the output counts as one."""
    experts: int | None = None
    """Number of those with their experts; None: all, or a model without experts."""

    @property
    def gpu(self) -> int:
        """Bytes on all cards together."""
        return sum(self.gpus)


@dataclass(frozen=True, slots=True)
class LayerSizes:
    """Bytes of each layer's weights; the last one is the output."""

    dense: tuple[int, ...]
    experts: tuple[int, ...]


def layer_sizes(header: GGUFHeader) -> LayerSizes:
    """The layer sizes of a model's header."""
    layers = header.block_count or 0
    dense, experts = [0] * (layers + 1), [0] * (layers + 1)
    embedding, has_output = 0, False
    for tensor in header.tensors:
        head, _, rest = tensor.name.partition(".")
        if head == "blk":
            number, _, name = rest.partition(".")
            if number.isdecimal() and int(number) < layers:
                (experts if "_exps." in f"{name}." else dense)[int(number)] += tensor.size
        elif head.startswith("output"):
            dense[layers] += tensor.size
            has_output = has_output or tensor.name == "output.weight"
        elif head == "token_embd":
            embedding += tensor.size
    if not has_output:
        dense[layers] += embedding  # used twice, and copied there for the second use
    return LayerSizes(tuple(dense), tuple(experts))


def place(sizes: LayerSizes, parts: Estimate, n_gpu_layers: int | None, free: Sequence[int]) -> Placement:
    """Place the parts of an estimate, by the free bytes of each card.

    Args:
        n_gpu_layers: negative: all; None: as many as fit.
    """
    if not free or n_gpu_layers == 0:
        return Placement(parts.ram, (0,) * len(free), 0)
    most = len(sizes.dense)
    if n_gpu_layers is not None:
        return _spread(sizes, parts, min(n_gpu_layers, most) if n_gpu_layers > 0 else most, 0, free)
    room = [max(amount - MARGIN, 0) for amount in free]
    has_experts = any(sizes.experts)
    # From the best to the least: each is tried on the cards as they are.
    choices = [(most, kept) for kept in range(most if has_experts else 1)]
    if has_experts:
        choices.append((most, most))
    choices += [(layers, most if has_experts else 0) for layers in range(most - 1, 0, -1)]
    for layers, without in choices:
        placed = _spread(sizes, parts, layers, without, room)
        if all(needed <= left for needed, left in zip(placed.gpus, room, strict=True)):
            return placed
    return Placement(parts.ram, (0,) * len(free), 0)


def _spread(sizes: LayerSizes, parts: Estimate, layers: int, without: int, room: Sequence[int]) -> Placement:
    """Place the last `layers` layers on the cards, without the experts of the first `without` of all layers."""
    most = len(sizes.dense)
    cache = parts.kv_cache // max(most - 1, 1)
    weights = sum(room) or len(room)
    gpus = [0] * len(room)
    moved = 0
    for place, layer in enumerate(range(most - layers, most)):
        size = sizes.dense[layer] + (sizes.experts[layer] if layer >= without else 0)
        size += cache if layer < most - 1 else 0
        gpus[_card(place / layers, room, weights)] += size
        moved += size
    for card, size in enumerate(gpus):
        if size:
            gpus[card] += parts.compute  # each card computes its own layers
    gpus[0] += parts.projector
    everything = parts.total - parts.repacked + parts.checkpoints + parts.prompt_cache
    ram = max(everything - moved - parts.compute - parts.projector, 0)
    experts = max(layers - max(without - (most - layers), 0), 0) if any(sizes.experts) and without else None
    return Placement(ram, tuple(gpus), layers, experts)


def _card(share: float, room: Sequence[int], total: int) -> int:
    """The card of a layer, by which part of the layers lies before it."""
    until = 0.0
    for card, amount in enumerate(room):
        until += amount / total if sum(room) else 1 / len(room)
        if share < until - 1e-9:
            return card
    return len(room) - 1
