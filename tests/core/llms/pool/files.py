"""A `miner.toml` in a directory of its own, and the pool over it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from miner.config.config import MinerConfig
from miner.core.llms import get_backend


def write(directory: Path, text: str) -> Path:
    path = directory / "miner.toml"
    path.write_text(text)
    return path


@asynccontextmanager
async def pool_of(directory: Path, text: str, **settings: Any):
    """The pool over a file with this text, closed at the end."""
    path = write(directory, text)
    config = MinerConfig(**{"_env_file": None, "max_retries": 0, "config": str(path), **settings})
    async with get_backend("pool", config) as service:
        yield service
