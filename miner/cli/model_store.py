"""The interface of a model store (the models directory, an Ollama server) for `miner models`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

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


class ModelStore(Protocol):
    """A store of models. All methods raise MinerError on failure."""

    skipped: tuple[str, ...]
    """Entries that the last `rows` skipped although they look like models, with the reasons."""

    def rows(self) -> list[Row]:
        """The models that are available."""

    def details(self, name: str) -> dict[str, Any]:
        """Properties of a model in display order; None if unknown."""

    def pull(self, name: str, on_progress: Callable[[PullProgress], None]) -> str:
        """Download a model and return the name to request it by."""

    def remove(self, name: str) -> str:
        """Delete a model and return its name."""

    def path(self, name: str) -> str:
        """Return the file of a model."""
