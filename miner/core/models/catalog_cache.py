"""Headers of model files, kept in the user's cache directory: one takes 20 ms to read, and a directory has hundreds.

The file is a help and no more: where it cannot be read, is not of our making or cannot be written, headers are read.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from miner.core.models.directory import Stamp

_LARGEST = 64 * 1024 * 1024
"""Bytes; chat templates are most of it."""

Facts = TypeVar("Facts")


class FactsFile(Generic[Facts]):
    """The facts of models by the stamps of their files: a file that has changed has others. Not for an event loop."""

    def __init__(self, path: Path, kind: type[Facts]) -> None:
        self.path = path
        self._decoder = msgspec.json.Decoder(list[tuple[tuple[Stamp, ...], kind]])  # type: ignore[valid-type]
        self._written: frozenset[tuple[Stamp, ...]] = frozenset()

    def read(self) -> dict[tuple[Stamp, ...], Facts]:
        """Return the cached facts; none if the file cannot be read."""
        try:
            if not self.path.is_file() or self.path.stat().st_size > _LARGEST:
                return {}
            known: dict[tuple[Stamp, ...], Facts] = dict(self._decoder.decode(self.path.read_bytes()))
        except (OSError, ValueError, RecursionError):
            return {}
        self._written = frozenset(known)
        return known

    def write(self, known: Mapping[tuple[Stamp, ...], Facts]) -> None:
        """Keep these in place of the ones before, if there are new ones among them."""
        if self._written.issuperset(known):
            return
        self._written = frozenset(known)
        try:
            content = msgspec.json.encode(list(known.items()))
            if len(content) > _LARGEST:
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            number, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
            try:
                with os.fdopen(number, "wb") as file:
                    file.write(content)
                os.replace(name, self.path)  # atomic: readers see the old or the new file
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(name)
        except (OSError, ValueError):
            return
