"""Slots and context of an engine, chosen together from the memory at hand.

A slot holds one conversation, and what coding agents send needs 32k tokens: so a model that can do it gets fewer
slots rather than shorter ones. An engine allocates all of it when it starts, so one model takes a share of the free
memory and leaves the rest to others; only for the first slot may it take what all engines together may have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from miner.core.models.gguf.header import GGUFHeader
from miner.core.models.memory.available import Memory
from miner.core.models.memory.estimate import Load, largest_context
from miner.core.models.memory.kv_cache import PAD
from miner.core.models.memory.placement import Placement, layer_sizes
from miner.core.models.memory.verdict import placed

ENOUGH = 32_768
"""Tokens of a slot that are worth more than a second slot."""
SHARE = 5 / 8
"""What one model takes of the memory for all engines, where that is enough for a slot: half of what is free."""
AS_TRAINED = "as long as it was trained for"
AS_FITS = "what fits into memory"
_BLIND_TOKENS = 32_768
"""Tokens of all slots together where the free memory is unknown."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """Slots of an engine and tokens of each."""

    ctx_size: int
    parallel: int
    why: str
    """What limits the context, in a few words."""
    short: bool = False
    """Whether memory keeps it below the tokens that the model could do and an agent needs."""


def choose_capacity(
    header: GGUFHeader,
    load_of: Callable[[int, int], Load],
    memory: Memory,
    *,
    slots: int,
    longest: int,
    enough: int = ENOUGH,
    fixed_slots: bool = False,
    share: float = SHARE,
) -> Capacity:
    """As many slots as fit with `enough` tokens each, then as many tokens as fit into each.

    Args:
        load_of: the load of so many tokens and slots.
        memory: what all engines together may take.
        slots: most slots.
        longest: most tokens of a slot.
        enough: tokens below which fewer slots are better.
        fixed_slots: `slots` is also the least.
        share: of the memory that the model takes, where that is enough for a slot.
    """
    enough = min(enough, longest)
    if memory.available is None:
        ctx_size = min(longest, max(enough, _BLIND_TOKENS // slots) if not fixed_slots else _BLIND_TOKENS // slots)
        return Capacity(
            max(ctx_size, min(PAD, longest)),
            slots if fixed_slots else max(1, min(slots, _BLIND_TOKENS // ctx_size)),
            "the free memory is unknown",
        )
    sizes, least = layer_sizes(header, load_of(enough, 1).cpu_tensors), slots if fixed_slots else 1
    portion = portion_of(memory, share)
    alone = placed(header, load_of(enough, least), memory, sizes)

    def fits(ctx_size: int, parallel: int) -> bool:
        where = placed(header, load_of(ctx_size, parallel), portion, sizes)
        return _as_fast(where, alone) and _has_room(where, portion)

    number = next((count for count in range(slots, least - 1, -1) if fits(enough, count)), None)
    if number is not None:
        ctx_size = largest_context(lambda tokens: tokens <= enough or fits(tokens, number), limit=longest)
        return Capacity(ctx_size, number, AS_TRAINED if ctx_size == longest else AS_FITS)

    # Not even one within the share: all of the memory, for as many tokens as are enough.
    def fits_alone(ctx_size: int) -> bool:
        return _has_room(placed(header, load_of(ctx_size, least), memory, sizes), memory)

    ctx_size = largest_context(fits_alone, limit=enough) or min(PAD, longest)
    why = AS_TRAINED if ctx_size == longest else AS_FITS
    return Capacity(ctx_size, least, why, short=ctx_size < enough)


def portion_of(memory: Memory, share: float) -> Memory:
    """A part of what is available."""
    return replace(
        memory,
        available=None if memory.available is None else int(memory.available * share),
        gpu_available=tuple(int(free * share) for free in memory.gpu_available),
    )


def _as_fast(where: Placement, alone: Placement) -> bool:
    """Whether as many layers are on GPUs as for the first slot."""
    return (where.layers, where.experts) == (alone.layers, alone.experts)


def _has_room(where: Placement, memory: Memory) -> bool:
    if memory.available is not None and where.ram > memory.available:
        return False
    return memory.unified or all(need <= free for need, free in zip(where.gpus, memory.gpu_available, strict=True))
