"""The settings of the vLLM server's command line, which `miner vllm` makes. No service reads them."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from miner.config.config import MinerConfig
from miner.config.messages import config_error
from miner.errors import ConfigError

__all__ = ["VLLMCommandConfig", "default_port"]


class VLLMCommandConfig(BaseSettings):
    """What a vLLM server is started with, from the arguments, the environment and .env, in this order.

    Raises:
        ConfigError: a value is wrong.
    """

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        case_sensitive=False,
        protected_namespaces=(),
        hide_input_in_errors=True,
    )

    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs that share one model."""
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, allow_inf_nan=False)
    """Part of the GPU's memory that vLLM may take."""
    max_model_len: int | None = Field(None, ge=1)
    """Context length in tokens; default: the model's own."""

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise config_error(error, type(self), settings) from None


def default_port(config: MinerConfig) -> int:
    """The port at which VLLM_API_BASE expects the server; 8000 where it names none.

    Raises:
        ConfigError: what stands there is no port.
    """
    try:
        return urlsplit(config.vllm_api_base).port or 8000
    except ValueError:
        raise ConfigError(f"VLLM_API_BASE={config.vllm_api_base!r}: its port is none.") from None
