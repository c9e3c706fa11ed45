"""Nothing of the tester's own keys."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _own_config_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
