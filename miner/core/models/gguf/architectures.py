"""Groups of llama.cpp's architectures (`general.architecture`) that it treats alike without a flag in the file."""

from __future__ import annotations

from typing import Final

__all__ = ["ENCODERS"]

ENCODERS: Final = frozenset(
    """bert nomic-bert nomic-bert-moe jina-bert-v2 jina-bert-v3 neo-bert modern-bert xlm-roberta gemma-embedding
    t5encoder""".split()
)
"""Models that only embed: `llama_model::create_memory` gives them no KV cache, and they pool by default."""
