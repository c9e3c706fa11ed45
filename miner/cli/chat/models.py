"""Which models can be talked to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miner.errors import MinerError, UnsupportedFeatureError

if TYPE_CHECKING:
    from miner.core.llms.LLMService import LLMService
    from miner.core.wire import ModelInfo

SHOWN = 8
"""Models that an error names."""


def chats(model: ModelInfo) -> bool:
    """Whether the model generates text, or its server does not say."""
    return model.capabilities is None or "chat" in model.capabilities


async def refuse_other_kinds(model: ModelInfo, service: LLMService) -> None:
    """Refuse a model for embeddings or reranking before anything is typed.

    Raises:
        UnsupportedFeatureError: it generates no text; names the models that do.
    """
    if chats(model):
        return
    try:
        able = [info.id for info in await service.list_models() if chats(info)]
    except MinerError:
        able = []
    more = f" and {len(able) - SHOWN} more" if len(able) > SHOWN else ""
    raise UnsupportedFeatureError(
        f"{model.id} does not generate text.", param="model",
        operator_hint=f"These do: {', '.join(able[:SHOWN])}{more}." if able else "No model here does.",
    )  # fmt: skip
