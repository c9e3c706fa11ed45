"""Sampling that engines share: the `top_k` for llama.cpp, and log probabilities on the wire."""

from __future__ import annotations

from msgspec import Struct

from miner.core.wire import ChatRequest, TokenLogprob

TOP_K_CAP = 1000
"""Tokens that top_p samples from on llama.cpp and Ollama. Without a cap the server sorts the vocabulary for each
token of each slot, on one thread (0.8 ms of 49,152 tokens, a fifth of the throughput of a small model;
bench/README.md)."""


def top_k_of(request: ChatRequest) -> int:
    """Return the `top_k` to send to llama.cpp: the request's; else 1 for greedy decoding, which needs no sorting; else
    the cap, or 0 (no cap) where top_p is 1.
    """
    if request.top_k is not None:
        return request.top_k
    if request.temperature == 0:
        return 1
    return TOP_K_CAP if request.top_p < 1 else 0


class EngineLogprob(Struct):
    """One generated token, as all three engines write it."""

    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[EngineLogprob] = []


def token_logprob(entry: EngineLogprob, alternatives: int) -> TokenLogprob:
    """Convert it, with at most so many alternatives: an engine may have sent more."""
    others = entry.top_logprobs[:alternatives]
    return TokenLogprob(
        token=entry.token,
        logprob=entry.logprob,
        bytes=entry.bytes,
        alternatives=[TokenLogprob(token=other.token, logprob=other.logprob, bytes=other.bytes) for other in others],
    )
