"""Plan: what `miner serve` was told, in a form that can be handed to a worker process."""

from __future__ import annotations

from typing import Any

import msgspec

from miner.core.llms.LLMService import LLMService
from miner.gateway.settings import GatewaySettings

__all__ = ["Plan"]


class Plan(msgspec.Struct, kw_only=True, frozen=True):
    """What the command line said; everything else comes from the environment, which workers inherit."""

    settings: dict[str, Any] = {}
    """Arguments of GatewaySettings."""
    config: dict[str, Any] = {}
    """Arguments of MinerConfig."""
    backend: str | None = None

    def gateway_settings(self) -> GatewaySettings:
        """The gateway's settings."""
        return GatewaySettings(**self.settings)

    def make_service(self) -> LLMService:
        """The service that is served."""
        from miner.config.config import MinerConfig
        from miner.core.llms.registry import get_backend

        return get_backend(self.backend, MinerConfig(**self.config))
