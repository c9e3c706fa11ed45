"""The machine's own settings must not steer the tests."""

from __future__ import annotations

import os

import pytest

from miner.config.config import MinerConfig


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {name.upper() for name in MinerConfig.model_fields}
    for name in [name for name in os.environ if name.upper() in names]:
        monkeypatch.delenv(name)
