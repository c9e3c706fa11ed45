"""The service itself: health, models, capabilities, errors."""

from __future__ import annotations

import pickle
import time

import pytest

from miner.conformance.contract import Contract, counted, not_checked
from miner.core.llms.contract.capabilities import CAPABILITIES
from miner.core.wire import Health
from miner.errors import ContextLengthError, MinerError, RequestError

pytestmark = pytest.mark.miner_capability("service")


def test_health_check_is_true(contract: Contract) -> None:
    """Within 10 s: it is polled."""
    began = time.monotonic()
    assert contract.run(contract.service.health_check()) is True
    assert time.monotonic() - began < 10


def test_health_has_state_and_latency(contract: Contract) -> None:
    """The latency is in seconds and at most that of the call."""
    began = time.monotonic()
    health = contract.run(contract.service.health())
    assert isinstance(health, Health)
    assert health.state == "ready"
    assert health.latency is not None
    assert 0 <= health.latency <= time.monotonic() - began


def test_models_are_listed(contract: Contract, request: pytest.FixtureRequest) -> None:
    """Names are unique, context lengths positive, capabilities known."""
    models = contract.models()
    if not models:
        not_checked(request, "no models are listed")
    assert len({info.id for info in models}) == len(models)
    for info in models:
        assert info.id
        assert info.context_length is None or info.context_length > 0
        assert (info.capabilities or frozenset()) <= CAPABILITIES


def test_capabilities_are_known_words(contract: Contract) -> None:
    """Capabilities are a fixed set."""
    able = contract.service.capabilities
    assert isinstance(able, frozenset)
    assert able <= CAPABILITIES, f"unknown capabilities: {sorted(able - CAPABILITIES)}"
    assert "chat" in able or "embeddings" in able


def test_config_is_kept(contract: Contract) -> None:
    """`service.config` is the object that the constructor got, `service.models` a dict."""
    service = contract.new_service()
    assert service.config is contract.service.config
    assert isinstance(service.models, dict)


def test_errors_survive_pickling(contract: Contract) -> None:
    """Errors keep their attributes between processes."""
    with pytest.raises(MinerError) as caught:
        contract.chat("Hello", temperature=-1)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert type(copy) is type(caught.value)
    assert str(copy) == str(caught.value)


def test_a_prompt_that_is_too_long_is_refused(contract: Contract, request: pytest.FixtureRequest) -> None:
    """The error has both numbers and comes before the first token, streamed or not."""
    length = next((info.context_length for info in contract.listed()), None)
    if length is None:
        not_checked(request, "no context length is listed")
        return
    if counted(request, contract.chat("Hello", max_tokens=1)) is None:
        return
    prompt = "hello " * (length + 200)
    for send in (contract.chat, contract.stream_chunks):
        with pytest.raises(RequestError) as caught:
            send(prompt, max_tokens=4)
        assert isinstance(caught.value, ContextLengthError), str(caught.value)[:200]
        assert caught.value.context_length
        assert caught.value.prompt_tokens
        assert caught.value.prompt_tokens > caught.value.context_length - 1
