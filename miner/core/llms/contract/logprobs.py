"""Log probabilities as all three engines write them."""

from __future__ import annotations

from msgspec import Struct

from miner.core.wire import TokenLogprob

__all__ = ["EngineLogprob", "token_logprob"]


class EngineLogprob(Struct):
    """One generated token on the wire."""

    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[EngineLogprob] = []


def token_logprob(entry: EngineLogprob, alternatives: int) -> TokenLogprob:
    """The same for callers, with as many alternatives as were asked for: an engine may have been asked for more."""
    others = entry.top_logprobs[:alternatives]
    return TokenLogprob(
        token=entry.token,
        logprob=entry.logprob,
        bytes=entry.bytes,
        alternatives=[TokenLogprob(token=other.token, logprob=other.logprob, bytes=other.bytes) for other in others],
    )
