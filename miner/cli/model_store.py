"""The interface of a model store (the models directory, an Ollama server) for `miner models`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from miner.core.model_card import ModelCard
from miner.core.models.hub.download import PullProgress


@dataclass(frozen=True, slots=True)
class Row:
    """One model in a list; None where it is unknown."""

    name: str
    size: int
    """Bytes."""
    quantization: str | None = None
    parameters: int | None = None
    context_length: int | None = None
    """Tokens that it was trained for."""
    fits: bool | None = None
    """Whether it fits into free memory now."""
    source: str = ""
    problem: str | None = None
    """Why it cannot be used."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """A model that was pulled."""

    name: str
    """The name to request it by."""
    size: int | None = None
    """Bytes, if known."""
    place: str | None = None
    """The directory of its files."""


@dataclass(frozen=True, slots=True)
class Removed:
    """A model that was deleted."""

    name: str
    freed: int | None = None
    """Bytes of disk that are free again; None: unknown, as other models may share its files."""


class ModelStore(Protocol):
    """A store of models. All methods raise MinerError on failure."""

    skipped: tuple[str, ...]
    """Entries that the last `rows` skipped although they look like models, with the reasons."""

    def rows(self) -> list[Row]:
        """The models that are available."""

    def details(self, name: str) -> dict[str, Any]:
        """Properties of a model in display order; None if unknown."""

    def card(self, name: str) -> ModelCard:
        """Return what the model's backend knows of it."""

    def pull(self, name: str, on_progress: Callable[[PullProgress], None]) -> Pulled:
        """Download a model."""

    def copy(self, source: str, destination: str) -> None:
        """Give a model another name, under which it stays when the first one is deleted."""

    def remove(self, name: str) -> Removed:
        """Delete a model."""

    def path(self, name: str) -> str:
        """Return the file of a model."""
