"""The settings of the vLLM server's command line, which `miner vllm` makes. No service reads them."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from miner.config.base import Settings
from miner.config.config import MinerConfig

__all__ = ["VLLMCommandConfig", "default_port"]


class VLLMCommandConfig(Settings):
    """What a vLLM server is started with, from the arguments, the environment and .env, in this order.

    Raises:
        ConfigError: a value is wrong, or an argument is not a setting.
    """

    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs that share one model."""
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, allow_inf_nan=False)
    """Part of the GPU's memory that vLLM may take."""
    max_model_len: int | None = Field(None, ge=1)
    """Context length in tokens; default: the model's own."""

    # Here and not only in the base: else type checkers make one whose arguments must have the fields' exact types.
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)


def default_port(config: MinerConfig) -> int:
    """The port at which VLLM_API_BASE expects the server; 8000 where it names none."""
    return urlsplit(config.vllm_api_base).port or 8000
