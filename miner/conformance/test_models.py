"""Models: exact names, loading, reranking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from miner.conformance.contract import Contract, not_checked, supported_or_refused
from miner.core.wire import ModelInfo
from miner.errors import InvalidRequestError, ModelNotFoundError, UnsupportedFeatureError

DOCUMENTS = ["Bananas are yellow.", "Paris is the capital of France.", "Cats sleep all day."]


@pytest.mark.miner_capability("service")
def test_unknown_model_is_refused(contract: Contract) -> None:
    """An unknown model is a ModelNotFoundError in all verbs."""
    _is_not_found(contract, "no-such-model-anywhere")


@pytest.mark.miner_capability("service")
def test_a_name_is_exact(contract: Contract, request: pytest.FixtureRequest) -> None:
    """A prefix of a listed name, or a name with a suffix, is not found: it would be another model."""
    models = contract.listed()
    if not models:
        not_checked(request, "no models are listed")
        return
    listed = {name for info in contract.models() for name in (info.id, *info.aliases)}
    # Backends with tags take a name without one as `:latest`.
    taken = {*listed, *(name.removesuffix(":latest") for name in listed)}
    name = models[0].id
    near = {name[:-1], name[: len(name) // 2], name.rpartition("-")[0], f"{name}x", f"{name}-instruct", f"x{name}"}
    others = sorted(near - taken - {""})
    assert others
    for other in others:
        _is_not_found(contract, other)


def _is_not_found(contract: Contract, name: str) -> None:
    """In every verb with a model; an unsupported verb may be refused as that first."""
    service = contract.service
    verbs: list[Callable[[], Any]] = [
        lambda: contract.chat("Hello", model=name),
        lambda: contract.stream_chunks("Hello", model=name),
        lambda: contract.run(service.generate("Hello", model=name)),
        lambda: contract.run(service.load_model(name)),
    ]
    for verb in verbs:
        with pytest.raises(ModelNotFoundError):
            verb()
    for verb in (
        lambda: contract.run(service.embed("Hello", name)),
        lambda: contract.run(service.rerank("Hello", DOCUMENTS, name)),
        lambda: contract.run(service.count_tokens("Hello", model=name)),
    ):
        with pytest.raises((ModelNotFoundError, UnsupportedFeatureError)):
            verb()


@pytest.mark.miner_capability("embeddings")
def test_vectors_come_from_the_model_that_was_named(contract: Contract, request: pytest.FixtureRequest) -> None:
    """Vectors of different models cannot be compared: each listed model embeds itself, or is refused."""
    if not supported_or_refused(
        contract, request, "embeddings", lambda: contract.run(contract.service.embed("Hello", contract.model))
    ):
        return
    models = contract.listed()
    if not models:
        not_checked(request, "no models are listed")
        return
    response = contract.run(contract.service.embed("Hello", models[0].id))
    if response.model is None:
        not_checked(request, "responses do not name the model of the vectors")
        return
    assert response.model in (models[0].id, *models[0].aliases)


@pytest.mark.miner_capability("service")
def test_a_model_is_loaded(contract: Contract, request: pytest.FixtureRequest) -> None:
    """Loading is idempotent; a backend that loads nothing checks the name."""
    for _ in range(2):
        info = contract.run(contract.service.load_model(contract.model))
        assert isinstance(info, ModelInfo)
        assert info.id
        assert contract.model in (None, info.id, *info.aliases)
        assert info.loaded is not False
        if info.loaded is None:
            not_checked(request, "loaded models are not reported")


@pytest.mark.miner_capability("keep_alive")
def test_how_long_a_model_stays_is_kept_or_refused(contract: Contract, request: pytest.FixtureRequest) -> None:
    """0 is refused (unload_model), and an invalid duration is an error that names it."""

    def send() -> Any:
        return contract.run(contract.service.load_model(contract.model, keep_alive="5m"))

    for wrong in (0, "soon"):
        with pytest.raises(InvalidRequestError) as caught:
            contract.run(contract.service.load_model(contract.model, keep_alive=wrong))
        assert caught.value.param == "keep_alive"
    if "keep_alive" in contract.service.capabilities:
        assert send().id
        return
    with pytest.raises(UnsupportedFeatureError) as refused:
        send()
    assert refused.value.param == "keep_alive"
    request.node.user_properties.append(("refused", True))


@pytest.mark.miner_capability("rerank")
def test_documents_are_ranked_or_refused(contract: Contract, request: pytest.FixtureRequest) -> None:
    """Each document once, best first, with different scores; `top_n` limits them."""

    def send(top_n: int | None = None) -> Any:
        return contract.run(contract.service.rerank("What is the capital of France?", DOCUMENTS, contract.model, top_n))

    if not supported_or_refused(contract, request, "rerank", send):
        return
    ranked = send().results
    assert sorted(one.index for one in ranked) == [0, 1, 2]
    assert [one.document for one in ranked] == [DOCUMENTS[one.index] for one in ranked]
    scores = [one.relevance_score for one in ranked]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 1
    assert [one.index for one in send(top_n=1).results] == [ranked[0].index]
