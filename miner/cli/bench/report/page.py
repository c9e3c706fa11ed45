"""The page of a measurement."""

from __future__ import annotations

from collections.abc import Sequence

from miner.cli.bench.result import Result


def page(results: Sequence[Result], names: Sequence[str]) -> str:
    """The page."""
    return ""
