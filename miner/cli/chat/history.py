"""What was typed, across sessions: one JSON string a line in a private file."""

from __future__ import annotations

import json
import os
from pathlib import Path

from miner.cli.chat.private_files import write_private
from miner.cli.json_value import loads
from miner.errors import MinerError

KEPT = 1000
"""Entries that are kept."""
_LONGEST = 20_000
"""Characters of an entry; longer ones, such as pasted files, are not kept."""


class History:
    """The entries, oldest first. A file that cannot be read or written ends no chat: `problem` says why."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.enabled = True
        self.problem: str | None = None
        self.entries = self._read()

    def add(self, text: str) -> None:
        """Append an entry, unless it is the last one again."""
        if not self.enabled or not text.strip() or len(text) > _LONGEST or self.entries[-1:] == [text]:
            return
        self.entries.append(text)
        line = json.dumps(text) + "\n"
        try:
            if len(self.entries) > 2 * KEPT or not self._path.exists():
                del self.entries[:-KEPT]
                write_private(self._path, "".join(json.dumps(entry) + "\n" for entry in self.entries))
                return
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND)
            try:
                os.fchmod(descriptor, 0o600)
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)
        except (OSError, MinerError) as error:
            self.problem = f"The history is not kept: {error}"

    def _read(self) -> list[str]:
        try:
            if self._path.exists() and not self._path.is_file():  # a pipe would be waited for, a device is endless
                self.problem, self.enabled = f"The history cannot be read: {self._path} is no regular file.", False
                return []
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            self.problem = f"The history cannot be read: {self._path}: {error.strerror}."
            return []
        entries = []
        for line in lines[-2 * KEPT :]:
            try:
                entry = loads(line)
            except ValueError:
                continue
            if isinstance(entry, str):
                entries.append(entry)
        return entries
