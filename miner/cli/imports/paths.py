"""Paths in other tools' files, as paths of ours."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from miner.cli.imports.draft import variables_in


@dataclass(frozen=True, slots=True)
class PathFinder:
    """Relative paths there start at the directory in which the other tool was started, which no file says: ours are
    looked for in the working directory, then beside the file, and are written absolute where they are found.
    """

    beside: Path
    """The directory of the other file."""

    def named(self, path: str) -> str:
        """The path for our file."""
        if variables_in(path) or os.path.isabs(path) or path.startswith("~"):
            return path
        for directory in (Path.cwd(), self.beside):
            if (directory / path).exists():
                return str((directory / path).resolve())
        return path if path.startswith(("./", "../")) else f"./{path}"
