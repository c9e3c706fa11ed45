"""The configuration file that a command is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from miner.config.config import MinerConfig
    from miner.config.file.read import LoadedConfig


def served_file(settings: MinerConfig, *, named: bool) -> LoadedConfig | None:
    """The file that `miner serve` would serve; None: there is none, or LLM_BACKEND says another backend.

    Args:
        named: whether it was named on the command line.

    Raises:
        ConfigError: it cannot be read, or is invalid.
    """
    from miner.config.file.find import find_config
    from miner.config.file.read import read_config

    chosen = settings.llm_backend if "llm_backend" in settings.model_fields_set else "pool"
    path = find_config(settings.config) if named or chosen == "pool" else None
    return None if path is None else read_config(path)
