"""ModelRules: what an operator says of a model, for whoever passes requests on to a service (the gateway)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from miner.core.wire import TokenUsage

Policy = Literal["refuse", "default", "skip"]
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens cost, in the operator's currency."""

    input: float = 0.0
    cached: float | None = None
    """Input tokens that were in the cache; None: as `input`."""
    output: float = 0.0

    def cost(self, usage: TokenUsage) -> float:
        """What these tokens cost."""
        cached = min(usage.cached_tokens or 0, usage.prompt_tokens)
        each = self.input if self.cached is None else self.cached
        fresh = usage.prompt_tokens - cached
        return (fresh * self.input + cached * each + usage.completion_tokens * self.output) / _MILLION


def cost_of(price: Price | None, usage: TokenUsage | None, generated: int = 0) -> float | None:
    """What a request cost; None: the model has no price, or no token was counted.

    Args:
        usage: as the engine reports it; None: it broke off before.
        generated: tokens that had come by then.
    """
    if usage is None and generated:
        usage = TokenUsage(0, generated, generated)
    return None if price is None or usage is None else price.cost(usage)


class ModelRules(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for the requests to one model. A struct: each request makes several."""

    name: str | None = None
    """The model's own name; None: there is no default model, or the backend alone knows what a name means."""
    names: frozenset[str] = frozenset()
    """All its names as the operator wrote them, wildcards included."""
    is_listed: bool = True
    """Whether lists of models show it."""
    description: str | None = None
    keys: frozenset[str] | None = None
    """Names of the API keys that may use it; None: all."""
    limits_keys: bool = False
    """Whether some models of the service are for some keys only: errors must not name them to others."""
    unsupported: Policy | None = None
    """What becomes of parameters that are not supported; None: as the caller's setting says."""
    skip: frozenset[str] = frozenset()
    """Parameters that are left out where they are not supported, whatever `unsupported` says."""
    refuse: frozenset[str] = frozenset()
    """Parameters that are refused where they are not supported, whatever `unsupported` says."""
    engine_fields: frozenset[str] = frozenset()
    """`Backend.engine_fields` of its backend."""
    sampling: Mapping[str, Any] = {}
    """Parameters of requests that do not set them: the backend's own business, but for what responses say of them."""
    price: Price | None = None
    """None: it has none."""
