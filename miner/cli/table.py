"""The models of `miner.toml` for `miner models list`: with what they do where its gateway runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from miner.cli.gateway_client import GatewayClient, Models
from miner.errors import MinerError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig

_GATEWAY_SECONDS = 3.0


def table_models(
    settings: MinerConfig, path: Path, url: str | None, key: str | None
) -> tuple[list[dict[str, Any]], str]:
    """The models of a file as `/admin/models` has them, and a note on where their states come from.

    Args:
        url: its gateway; None: that of the settings, if it serves these models.
        key: for the gateway's admin routes.

    Raises:
        MinerError: the file is wrong, or a gateway that was named cannot be asked.
    """
    own = asyncio.run(_states(settings, path))
    client, whole = GatewayClient.of(url, key), f"{path}: {len(own)} model{'' if len(own) == 1 else 's'}."
    try:
        running: list[dict[str, Any]] = client.get("/admin/models", Models, timeout=_GATEWAY_SECONDS)["models"]
    except MinerError as error:
        if url is not None:
            raise
        return own, f"{whole} No gateway was asked what is loaded: {error.message.rstrip('.')}."
    if {model["name"] for model in own} != {model.get("name") for model in running}:
        if url is not None:
            return running, f"The gateway at {client.base_url} serves other models than {path}; here are its own."
        return own, f"{whole} The gateway at {client.base_url} serves other models."
    return running, f"{whole} As the gateway at {client.base_url} serves them."


async def _states(settings: MinerConfig, path: Path) -> list[dict[str, Any]]:
    from miner.core.llms.registry import POOL, get_backend

    async with get_backend(POOL, settings.model_copy(update={"config": str(path)})) as service:
        states: list[dict[str, Any]] = msgspec.to_builtins(await service.model_states())
        return states
