"""The chat's own files, in the user's state directory; nobody else may read them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

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
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # mkstemp: 0600
        try:
            with open(handle, "w", encoding="utf-8", errors="replace") as file:
                file.write(text)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise MinerError(f"{path} cannot be written: {error.strerror}.") from error
