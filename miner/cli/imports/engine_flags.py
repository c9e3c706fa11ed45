"""Options of llama-server that have no key, as `flags`: those that `flags` takes, and what becomes of the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from miner.core.engine.flags.check import checked, wheel_parameters
from miner.errors import ConfigError, EngineStartError

OLDER_LOAD_MODES = ("mmap", "no-mmap", "mlock", "no-mlock", "direct-io", "no-direct-io")
"""Options that --load-mode has replaced."""


def refusal(name: str, value: Any) -> str | None:
    """Why `flags` does not take an option with this value; None: it does."""
    try:
        checked({name: tuple(value) if isinstance(value, list) else value}, "flags")
    except ConfigError as error:
        return error.message.removeprefix("flags: ").rstrip(".")
    return None


def needs_binary(name: str, value: Any) -> bool:
    """Whether only a llama-server binary takes the option, and not the engine that comes with miner."""
    try:
        wheel_parameters(checked({name: tuple(value) if isinstance(value, list) else value}, "flags"))
    except EngineStartError:
        return True
    return False


def load_mode(flags: Mapping[str, Any]) -> dict[str, Any]:
    """With older options of how the file is read as the one that newer versions have."""
    rest = {name: value for name, value in flags.items() if name not in OLDER_LOAD_MODES}
    mapped, locked = "no-mmap" not in flags, flags.get("mlock") is True
    mode = "mmap+mlock" if mapped and locked else "mlock" if locked else "mmap" if mapped else "none"
    if flags.get("direct-io") is True:
        mode = "dio"
    return rest if mode == "mmap" else {"load-mode": mode} | rest
