"""Nothing of the tester's own keys, and no process that a client package starts."""

from __future__ import annotations

import platform

import pytest

from miner.gateway.auth import key_store
from miner.gateway.middleware import tracing
from miner.gateway.server import log, run

platform.processor()
"""Runs `uname` once and remembers: the OpenAI package puts it into its headers."""


@pytest.fixture(autouse=True)
def _own_config_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    """What a gateway waits for where somebody does not answer, in fractions of a second."""
    monkeypatch.setattr(run, "_LINGERING_TIME", 0.3)
    monkeypatch.setattr(log, "_CLOSE_SECONDS", 0.5)
    monkeypatch.setattr(tracing, "_FLUSH_SECONDS", 0.5)
    monkeypatch.setattr(key_store, "_POLL_SECONDS", 0.1)
