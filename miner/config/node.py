"""Settings of commands that talk to a running node. No service reads them."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr

from miner.config.base import Settings


class NodeConfig(Settings):
    """The node of commands that have --url and --key.

    Raises:
        ConfigError: a value is invalid, or an argument is not a setting.
    """

    url: str | None = None
    """Commands that have --url: the server that they talk to without it, such as http://127.0.0.1:8088."""
    key: SecretStr | None = None
    """The API key for it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
