"""Embedding vectors, and the texts that they are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence

from miner.core.wire import EmbeddingResponse

Texts = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]
"""One or several texts; each may be the ids of its tokens."""


def shortened(response: EmbeddingResponse, dimensions: int) -> EmbeddingResponse:
    """Cut vectors to their first dimensions and scale them to unit length again, as OpenAI and Ollama do. It loses
    little where the model was trained for that (Matryoshka).
    """
    for item in response.data if dimensions < response.dimensions else ():
        vector = item.embedding[:dimensions]
        length = math.sqrt(sum(value * value for value in vector))
        item.embedding = [value / length for value in vector] if length else vector
    return response
