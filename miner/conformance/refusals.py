"""What a test does where it cannot test what it is about: make sure that the backend refuses it as declared, or say
that it was not checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from miner.conformance.contract import Contract
from miner.core.wire import EmbeddingResponse, LLMResponse, TokenUsage
from miner.errors import UnsupportedFeatureError

__all__ = ["counted", "not_checked", "supported_or_refused"]


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


def not_checked(request: pytest.FixtureRequest, reason: str) -> None:
    """Note that the test, or a part of it, found nothing that it could check: no pass goes unsaid for it."""
    if ("not checked", reason) not in request.node.user_properties:
        request.node.user_properties.append(("not checked", reason))


def counted(request: pytest.FixtureRequest, response: LLMResponse | EmbeddingResponse) -> TokenUsage | None:
    """What the backend counted of a response, checked; None, noted as not checked, where it counts nothing."""
    usage = response.usage
    if usage is None:
        not_checked(request, "it counts no tokens")
        return None
    assert usage.prompt_tokens > 0, "usage counts no token of the prompt: it is None where nothing was counted"
    if isinstance(response, LLMResponse):
        if response.content:
            assert usage.completion_tokens > 0, "usage counts no token of a reply that has text"
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    return usage
