"""What a service that serves a file (`miner.toml`) says of that file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from miner.core._typing import override


@dataclass(frozen=True, slots=True)
class ConfigState:
    """The file, and whether what is served is what it says."""

    path: Path
    loaded_at: float
    """When what is served was read, in seconds since 1970."""
    error: str | None = None
    """Why the file as it is now is not served: names file, line, key and value. None: it is served."""
    hint: str | None = None
    """The way out, and what else is wrong."""
    failed_at: float | None = None
    """When it was read in vain, in seconds since 1970."""
    others: tuple[Path, ...] = ()
    """Files that it names and that were read with it."""
    content: Mapping[str, Any] = field(default_factory=dict)
    """What is served, as it is written in the file; secrets are hidden."""


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """What another reading of the file has changed."""

    added: tuple[str, ...] = ()
    """Names of models."""
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    """Other tables that have changed, such as "limits"."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.others)

    @override
    def __str__(self) -> str:
        named = {"added": self.added, "removed": self.removed, "changed": self.changed, "changed tables": self.others}
        return "; ".join(f"{what}: {', '.join(names)}" for what, names in named.items() if names) or "nothing changed"
