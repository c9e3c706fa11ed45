"""Settings of the vLLM server that `miner vllm` starts. No service reads them."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from miner.config.base import Settings
from miner.config.config import MinerConfig


class VLLMCommandConfig(Settings):
    """Options of the vLLM server.

    Raises:
        ConfigError: a value is invalid, or an argument is not a setting.
    """

    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs to split the model across."""
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, allow_inf_nan=False)
    """Fraction of GPU memory that vLLM may use."""
    max_model_len: int | None = Field(None, ge=1)
    """Context length in tokens; default: the model's own."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)


def default_port(config: MinerConfig) -> int:
    """Return the port of VLLM_API_BASE; 8000 if it has none."""
    return urlsplit(config.vllm_api_base).port or 8000
