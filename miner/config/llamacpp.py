"""Values of llama.cpp's options, in its own names and, where it numbers them, in its order."""

from __future__ import annotations

from typing import Final, Literal, get_args

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
"""`--cache-type-k` and `--cache-type-v`."""
FlashAttention = Literal["on", "off", "auto"]
"""`--flash-attn`."""
PoolingType = Literal["none", "mean", "cls", "last", "rank"]
"""`--pooling`; the position is the number that a GGUF file's `pooling_type` has (`enum llama_pooling_type`)."""

CACHE_TYPES: Final[tuple[str, ...]] = get_args(CacheType)
FLASH_ATTENTION: Final[tuple[str, ...]] = get_args(FlashAttention)
POOLING_TYPES: Final[tuple[str, ...]] = get_args(PoolingType)

SPECULATION: Final = (
    "draft-simple", "draft-eagle3", "draft-mtp", "draft-dflash", "draft-dspark",
    "ngram-simple", "ngram-map-k", "ngram-map-k4v", "ngram-mod", "ngram-cache",
)  # fmt: skip
"""`--spec-type`; several are tried in order."""

FlagValue = bool | int | float | str | tuple[str | int | float, ...]
"""What an option of llama-server may be set to: true or false where it takes no value."""
