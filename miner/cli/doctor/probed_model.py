"""Which model is probed: nothing that is in memory is unloaded for it, unless the model was asked for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from miner.core.models.names import without_tag
from miner.core.wire import ModelInfo


@dataclass(frozen=True, slots=True)
class Choice:
    """A model, or why there is none."""

    model: ModelInfo | None
    why: str
    """What is special about the model, or the sentence that says why none is probed."""


def choose(models: Sequence[ModelInfo], running: Collection[str] | None) -> Choice:
    """The model whose probe disturbs no other: one that is in memory, else the default, else the first.

    Args:
        models: at least one.
        running: the names of those in memory, others than `models` included; None: the server does not say it.
    """
    ordered = sorted(models, key=lambda model: (not chats(model), not model.default))
    first = ordered[0]
    if running is None:
        if len(models) == 1 or first.default:
            return Choice(first, "the default" if first.default else "the only one")
        return Choice(
            None, f"there are {len(models)} models, and the server says neither which are loaded nor a default"
        )
    untagged = {without_tag(name) for name in running}
    loaded = [model for model in ordered if not untagged.isdisjoint(map(without_tag, running_names(model)))]
    if loaded and (chats(loaded[0]) or not chats(first)):
        return Choice(loaded[0], "loaded")
    if running:
        names = ", ".join(sorted(untagged)[:5])
        are = "is" if len(untagged) == 1 else "are"
        return Choice(None, f"{names} {are} loaded, and could be unloaded for {first.id}")
    return Choice(first, "the default" if first.default else "the only one" if len(models) == 1 else "the first")


def running_names(model: ModelInfo) -> set[str]:
    """The names under which it may be listed as running."""
    return {model.id, *model.aliases}


def chats(model: ModelInfo) -> bool:
    """Whether it generates, as far as is known."""
    return model.capabilities is None or "chat" in model.capabilities
