"""Loading a model, and ranking with one."""

from __future__ import annotations

from typing import Any

import pytest

from miner.conformance.contract import Contract
from miner.conformance.refusals import supported_or_refused
from miner.core.wire import ModelInfo
from miner.errors import InvalidRequestError, UnsupportedFeatureError

DOCUMENTS = ["Bananas are yellow.", "Paris is the capital of France.", "Cats sleep all day."]


@pytest.mark.miner_capability("service")
def test_a_model_is_loaded(contract: Contract) -> None:
    """Before it is asked for anything, and again; where nothing is loaded, the name is checked."""
    for _ in range(2):
        info = contract.run(contract.service.load_model(contract.model))
        assert isinstance(info, ModelInfo)
        assert info.id
        assert info.loaded is not False


@pytest.mark.miner_capability("keep_alive")
def test_how_long_a_model_stays_is_kept_or_refused(contract: Contract, request: pytest.FixtureRequest) -> None:
    """0 is for unload_model; a wrong duration is an error that names it."""

    def ask() -> Any:
        return contract.run(contract.service.load_model(contract.model, keep_alive="5m"))

    for wrong in (0, "soon"):
        with pytest.raises(InvalidRequestError) as caught:
            contract.run(contract.service.load_model(contract.model, keep_alive=wrong))
        assert caught.value.param == "keep_alive"
    if "keep_alive" in contract.service.capabilities:
        assert ask().id
        return
    with pytest.raises(UnsupportedFeatureError) as refused:
        ask()
    assert refused.value.param == "keep_alive"
    request.node.user_properties.append(("refused", True))


@pytest.mark.miner_capability("rerank")
def test_documents_are_ranked_or_refused(contract: Contract, request: pytest.FixtureRequest) -> None:
    """Each document once, the best first; `top_n` gives the first of them."""

    def ask(top_n: int | None = None) -> Any:
        return contract.run(contract.service.rerank("What is the capital of France?", DOCUMENTS, contract.model, top_n))

    if not supported_or_refused(contract, request, "rerank", ask):
        return
    ranked = ask().results
    assert sorted(one.index for one in ranked) == [0, 1, 2]
    assert [one.document for one in ranked] == [DOCUMENTS[one.index] for one in ranked]
    assert [one.relevance_score for one in ranked] == sorted((one.relevance_score for one in ranked), reverse=True)
    assert [one.index for one in ask(top_n=1).results] == [ranked[0].index]
