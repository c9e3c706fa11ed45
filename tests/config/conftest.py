"""Settings from nowhere but what a test sets."""

import os
from pathlib import Path

import pytest

from miner.config.config import MinerConfig
from miner.config.node import NodeConfig
from miner.config.sources import variable_of
from miner.config.vllm_command import VLLMCommandConfig
from miner.gateway.settings import GatewaySettings

ALL = (MinerConfig, VLLMCommandConfig, GatewaySettings, NodeConfig)


@pytest.fixture(autouse=True)
def empty_directory(tmp_path, monkeypatch) -> Path:
    """The working directory, without a .env and without variables of ours."""
    known = {variable_of(name) for settings in ALL for name in settings.model_fields}
    for name in list(os.environ):
        if name.upper() in known:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path
