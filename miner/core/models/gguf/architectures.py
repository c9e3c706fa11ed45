"""Groups of llama.cpp's architectures (`general.architecture`) that it treats alike without a flag in the file."""

from __future__ import annotations

from typing import Final

__all__ = ["ENCODERS", "SWA_PERIODS"]

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
