"""Variables that look like settings of ours and are none: most likely a name that was mistyped."""

from __future__ import annotations

import difflib
import os

from miner.config.config import MinerConfig
from miner.config.sources import dotenv_variables, variable_of
from miner.config.vllm_command import VLLMCommandConfig
from miner.gateway.settings import GatewaySettings

__all__ = ["unknown_variables"]

_PREFIX = "MINER_"
_NO_SETTINGS = {"MINER_CACHE", "MINER_CHAT_TEMPLATES", "MINER_CONFIG", "MINER_VLLM_POOLING_BASE"}
"""Names that others use: tests, examples, scripts."""


def unknown_variables() -> list[str]:
    """One sentence for each variable, of the environment or `.env`, that begins with MINER_, has a value, and sets
    nothing. Its value is not told: it might be a key.

    Raises:
        UnicodeDecodeError: `.env` is no UTF-8 text.
    """
    known = {
        variable_of(field) for cls in (MinerConfig, GatewaySettings, VLLMCommandConfig) for field in cls.model_fields
    }
    given = {
        name.upper() for source in (dotenv_variables(".env"), os.environ) for name, value in source.items() if value
    }
    unknown = sorted(name for name in given - known - _NO_SETTINGS if name.startswith(_PREFIX))
    return [f"{name} is no setting: {_meant(name, known)}" for name in unknown]


def _meant(name: str, known: set[str]) -> str:
    without = name.removeprefix(_PREFIX)
    near = [without] if without in known else difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.75)
    return f"did you mean {near[0]}?" if near else "settings are listed in .env.example."
