"""Which parts of a model are on which GPU, and which in the machine's memory.

As llama.cpp does it: the last layers go to the GPUs, each with its cache, spread over the cards by what is free on
each, the output behind the last one; the token embedding stays. Without `n_gpu_layers`, it takes what fits and leaves
a gibibyte free on each card (`--fit`); of a mixture of experts that does not fit, it keeps all layers there and leaves
the experts of as many as it must in the machine's memory. Tensors that it is told to keep there (`cpu_tensors`) stay.
A draft model is on the first card as a whole. Sizes are bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from miner.core.models.gguf.header import GGUFHeader
from miner.core.models.memory.estimate import Estimate, Load

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


def layer_sizes(header: GGUFHeader, cpu_tensors: Sequence[str] = ()) -> LayerSizes:
    """The layer sizes of a model's header, without the tensors that stay in main memory.

    Args:
        cpu_tensors: regular expressions of their names.
    """
    stays = re.compile("|".join(f"(?:{pattern})" for pattern in cpu_tensors)) if cpu_tensors else None
    layers = header.block_count or 0
    dense, experts = [0] * (layers + 1), [0] * (layers + 1)
    embedding, has_output = 0, False
    for tensor in header.tensors:
        if stays is not None and stays.search(tensor.name):
            continue
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


def place(sizes: LayerSizes, parts: Estimate, load: Load, free: Sequence[int]) -> Placement:
    """Place the parts of an estimate of a load, by the free bytes of each card."""
    n_gpu_layers = load.n_gpu_layers
    if not free or n_gpu_layers == 0:
        return _on_no_card(parts, load, free)
    most = len(sizes.dense)
    told = load.cpu_tensors or load.split or load.single_gpu is not None
    if n_gpu_layers is None and (told or not load.fits_itself):
        n_gpu_layers = -1
    if n_gpu_layers is not None:
        return _spread(sizes, parts, load, min(n_gpu_layers, most) if n_gpu_layers > 0 else most, 0, free)
    room = [max(amount - MARGIN, 0) for amount in free]
    has_experts = any(sizes.experts)
    # From the best to the least: each is tried on the cards as they are.
    choices = [(most, kept) for kept in range(most if has_experts else 1)]
    if has_experts:
        choices.append((most, most))
    choices += [(layers, most if has_experts else 0) for layers in range(most - 1, 0, -1)]
    for layers, without in choices:
        placed = _spread(sizes, parts, load, layers, without, room)
        if all(needed <= left for needed, left in zip(placed.gpus, room, strict=True)):
            return placed
    return _on_no_card(parts, load, free)


def _on_no_card(parts: Estimate, load: Load, free: Sequence[int]) -> Placement:
    """All of the model in main memory; a draft model may be on a card even so."""
    gpus, draft = [0] * len(free), _draft_on_card(parts, load) if free else 0
    if draft:
        gpus[_first_card(load, free)] = draft
    return Placement(parts.ram - draft, tuple(gpus), 0)


def _draft_on_card(parts: Estimate, load: Load) -> int:
    return parts.draft if load.draft is not None and load.draft.n_gpu_layers != 0 else 0


def _first_card(load: Load, free: Sequence[int]) -> int:
    return min(load.single_gpu or 0, len(free) - 1)


def _spread(
    sizes: LayerSizes, parts: Estimate, load: Load, layers: int, without: int, free: Sequence[int]
) -> Placement:
    """Place the last `layers` layers on the cards, without the experts of the first `without` of all layers."""
    most, first = len(sizes.dense), _first_card(load, free)
    cache = parts.kv_cache // max(most - 1, 1) if load.kv_offload else 0
    adapter = parts.adapters // most
    room: Sequence[float] = free
    if load.single_gpu is not None:
        room = [float(card == first) for card in range(len(free))]
    elif any(load.split):
        room = [*load.split, *[0.0] * len(free)][: len(free)]
    weights = sum(room) or len(room)
    gpus = [0] * len(room)
    moved = 0
    for place, layer in enumerate(range(most - layers, most)):
        size = sizes.dense[layer] + (sizes.experts[layer] if layer >= without else 0)
        size += (cache if layer < most - 1 else 0) + adapter
        gpus[_card(place / layers, room, weights)] += size
        moved += size
    for card, size in enumerate(gpus):
        if size:
            gpus[card] += parts.compute  # each card computes its own layers
    beside = _draft_on_card(parts, load) + (parts.projector if load.mmproj_offload else 0)
    gpus[first] += beside
    everything = parts.total - parts.repacked + parts.checkpoints + parts.prompt_cache
    ram = max(everything - moved - parts.compute - beside, 0)
    experts = max(layers - max(without - (most - layers), 0), 0) if any(sizes.experts) and without else None
    return Placement(ram, tuple(gpus), layers, experts)


def _card(share: float, room: Sequence[float], total: float) -> int:
    """The card of a layer, by which part of the layers lies before it."""
    until = 0.0
    for card, amount in enumerate(room):
        until += amount / total if sum(room) else 1 / len(room)
        if share < until - 1e-9:
            return card
    return len(room) - 1
