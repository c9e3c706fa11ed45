"""What a test does where the backend does not declare a capability: make sure that it is refused, and say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from miner.conformance.contract import Contract
from miner.errors import UnsupportedFeatureError

__all__ = ["supported_or_refused"]


def supported_or_refused(
    contract: Contract,
    request: pytest.FixtureRequest,
    capability: str,
    ask: Callable[[], Any],
    param: str | None = None,
) -> bool:
    """Whether the backend declares the capability. If not, `ask` must be refused by name."""
    if capability in contract.able():
        return True
    with pytest.raises(UnsupportedFeatureError) as caught:
        ask()
    if param is not None:
        assert caught.value.param == param, f"the refusal must name {param!r}, it names {caught.value.param!r}"
    request.node.user_properties.append(("refused", True))
    return False
