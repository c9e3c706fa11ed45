"""How one engine is started: the command that runs `child.py`, and its configuration as one line of JSON for standard
input, because other users can read command lines and environments.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import socket as stdlib_socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from miner.core.engine.environment import clean_environment
from miner.core.engine.spec import EngineAddress

_SOCKET_PATH_LIMIT = 100  # bytes; the system's own limit is 104 (macOS) or 108 (Linux)

_RUNS = itertools.count(1)


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """How to start one engine."""

    argv: tuple[str, ...]
    env: dict[str, str]
    """The environment of the child, without our secrets."""
    stdin: bytes = field(default=b"", repr=False)
    """Written to the child's standard input, which stays open until we exit."""
    api_key: str | None = field(default=None, repr=False)
    """The API key of a child that listens on a port."""
    starts_server: bool = False
    """Whether the child starts the server as a process of its own: then what it does itself is no progress."""
    checks: tuple[str, ...] = ()
    """Paths that the child asks the server for until that is ready; `${PORT}` stands for its port."""
    marker: str | None = None
    """In the environment of all that the child starts; see `run_marker`."""
    run: int = field(default_factory=_RUNS.__next__)
    """Of each start another."""

    def address(self, reported: str) -> EngineAddress:
        """The address from what the child reported: `unix:///path` or `http://127.0.0.1:port`."""
        if reported.startswith("unix://"):
            return EngineAddress("http://engine", unix_socket=Path(reported.removeprefix("unix://")), run=self.run)
        return EngineAddress(reported.rstrip("/"), api_key=self.api_key, run=self.run)


class Planner(Protocol):
    """A way to start engines."""

    @property
    def name(self) -> str:
        """Name for messages and tables."""

    def plan(self, spec: Any, directory: Path) -> LaunchPlan:
        """How to start `spec` with its files in `directory`, which exists and is private. Starts nothing."""


def child_plan(
    mode: str, flags: Sequence[str], paths: Sequence[Path], arguments: dict[str, Any], directory: Path
) -> LaunchPlan:
    """A plan to run `child.py` in one of its modes, with these arguments in its configuration."""
    socket = directory / "engine.sock"
    has_socket = hasattr(stdlib_socket, "AF_UNIX") and len(os.fsencode(socket)) <= _SOCKET_PATH_LIMIT
    key = secrets.token_urlsafe(24)
    config = {
        "mode": mode,
        "parent": os.getpid(),
        "path": [str(path) for path in paths],
        "directory": str(directory),
        "socket": str(socket) if has_socket else None,
        "api_key": key,
        **arguments,
    }
    return LaunchPlan(
        argv=(sys.executable, *flags, str(Path(__file__).with_name("child.py"))),
        env=clean_environment(),
        stdin=json.dumps(config).encode() + b"\n",
        api_key=key,
        starts_server=mode in ("binary", "command"),
        checks=("/health",) if mode == "binary" else (),
    )
