"""OpenAIAPIService: any server that speaks OpenAI's API, such as SGLang, LM Studio or TabbyAPI."""

from __future__ import annotations

from typing import Any

from miner.config.secrets import secret_text
from miner.core._typing import override
from miner.core.llms.openai.service import Endpoint, OpenAIService
from miner.errors import ConfigError

__all__ = ["OpenAIAPIService"]


class OpenAIAPIService(OpenAIService):
    """The server at MINER_OPENAI_API_BASE. It is sent what OpenAI's API has, and nothing else."""

    name = "openai"
    unreachable_hint = "Start the server, or set MINER_OPENAI_API_BASE; `curl {url}/models` must respond."
    timeout_setting = "MINER_OPENAI_TIMEOUT"
    key_setting = "MINER_OPENAI_API_KEY"
    address_setting = "MINER_OPENAI_API_BASE (with its /v1)"

    @classmethod
    @override
    def not_configured(cls, config: Any = None) -> str | None:
        from miner.config.config import config_of

        return None if config_of(config).openai_api_base else "MINER_OPENAI_API_BASE is not set"

    @override
    def endpoint(self) -> Endpoint:
        settings = self._settings
        if not settings.openai_api_base:
            raise ConfigError(
                "MINER_OPENAI_API_BASE is not set.",
                operator_hint="Set it to the server's URL with its /v1, such as http://localhost:30000/v1.",
            )
        return Endpoint(
            settings.openai_api_base.rstrip("/"), secret_text(settings.openai_api_key), settings.openai_timeout
        )
