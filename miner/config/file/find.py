"""Where `miner.toml` is."""

from __future__ import annotations

import os
from pathlib import Path

FILE_NAME = "miner.toml"


def config_paths() -> list[Path]:
    """Where a file is looked for if none is named, in order: the working directory, the user's config directory."""
    directory = os.environ.get("XDG_CONFIG_HOME", "")
    base = Path(directory) if os.path.isabs(directory) else Path("~/.config").expanduser()
    return [Path(FILE_NAME), base / "miner" / FILE_NAME]


def find_config(named: str | os.PathLike[str] | None) -> Path | None:
    """The file to read: the named one, whether or not it is there, else the first of `config_paths` that is; None:
    there is none.
    """
    if named:
        return Path(named).expanduser().absolute()
    return next((path.absolute() for path in config_paths() if path.is_file()), None)
