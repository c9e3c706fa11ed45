"""A `miner.toml` in a directory of its own, and the pool over it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from miner.config.config import MinerConfig
from miner.core.llms import get_backend

SOON = 60.0
"""Seconds for what takes less than 2 on an idle machine."""


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


async def until(check: Callable[[], Any], seconds: float = SOON) -> Any:
    """The first true result of a check, which may be async."""
    async with asyncio.timeout(seconds):
        while True:
            found = check()
            if inspect.isawaitable(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.01)
