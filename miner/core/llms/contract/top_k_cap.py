"""How much of the vocabulary llama.cpp looks at for a token, in its own server and in Ollama's."""

from __future__ import annotations

from miner.core.wire import ChatRequest

__all__ = ["NUCLEUS_TOKENS", "top_k_of"]

NUCLEUS_TOKENS = 1000
"""What top_p chooses from. Without a bound the server sorts the whole vocabulary for each token of each slot, on one
thread (0.8 ms of 49,152 tokens, a fifth of the throughput of a small model; bench/README.md)."""


def top_k_of(request: ChatRequest) -> int:
    """The `top_k` to send: the caller's; else 1 where the likeliest token is taken, which needs no sorting; else as
    many as top_p could ever take. 0, all of them, where it takes all.
    """
    if request.top_k is not None:
        return request.top_k
    if request.temperature == 0:
        return 1
    return NUCLEUS_TOKENS if request.top_p < 1 else 0
