"""Nothing of the tester's own keys, and no process that a client package starts."""

from __future__ import annotations

import platform

import pytest

platform.processor()
"""Runs `uname` once and remembers: the OpenAI package puts it into its headers."""


@pytest.fixture(autouse=True)
def _own_config_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
