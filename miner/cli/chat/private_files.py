"""The chat's own files, in the user's state directory; nobody else may read them."""

from __future__ import annotations

import os
from pathlib import Path

from miner.core.file_errors import way_out
from miner.core.file_replacement import replace_file
from miner.errors import MinerError


def chat_directory() -> Path:
    """`$XDG_STATE_HOME/miner/chat`, else `~/.local/state/miner/chat`."""
    stated = os.environ.get("XDG_STATE_HOME", "")
    base = Path(stated) if os.path.isabs(stated) else Path("~/.local/state").expanduser()
    return base / "miner" / "chat"


def write_private(path: Path, text: str) -> None:
    """Write a file whole or not at all, with mode 0600 in a directory of mode 0700.

    Raises:
        MinerError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(path, text.encode("utf-8", "replace"), private=True)
    except OSError as error:
        hint = way_out(error, path)
        raise MinerError(f"{path} cannot be written: {error.strerror}.", operator_hint=hint) from error
