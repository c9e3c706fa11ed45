"""Whether the llama.cpp of an engine was built with OpenMP, told from its files: nothing is run.

With OpenMP, threads that wait at a barrier give their core away after a moment; without it they spin. llama.cpp prints
in its `system_info` line how it was built ("OPENMP = 1"): the name is a text in its library for processors, or in the
program itself if it was linked into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

_MARK = b"\0OPENMP\0"
_LIBRARIES = ("*ggml*", "*llama*")
_PLACES = (".", "../lib", "../lib64", "../lib/*", "../libexec")
"""Where the libraries of a program are, from its directory."""
_SUFFIXES = (".so", ".dylib", ".dll")

_Stamp = tuple[str, int, int, int]
"""Path, bytes, modification time and inode."""


def openmp_in(files: Iterable[Path]) -> bool:
    """Whether one of these files has llama.cpp built with OpenMP. Reads each version of a file once, so not for an
    event loop; files that cannot be read have not.
    """
    return any(_has_mark(stamp) for file in files if (stamp := _stamp(file)) is not None)


def program_files(program: Path) -> Iterator[Path]:
    """A program, and the libraries of llama.cpp that it may load."""
    program = program.resolve()
    yield program
    seen = set[Path]()
    for place in _PLACES:
        for directory in sorted(program.parent.glob(place)) if "*" in place else [program.parent / place]:
            for pattern in _LIBRARIES:
                for file in sorted(directory.glob(pattern)):
                    found = file.resolve()
                    if any(suffix in found.name for suffix in _SUFFIXES) and found not in seen:
                        seen.add(found)
                        yield found


def package_files(package: Path) -> Iterator[Path]:
    """The libraries of a Python package, also those that a wheel keeps beside it."""
    for directory in (package, package / "lib", package.with_name(f"{package.name}.libs")):
        for file in sorted(directory.glob("*")):
            if any(suffix in file.name for suffix in (*_SUFFIXES, ".pyd")):
                yield file


def _stamp(file: Path) -> _Stamp | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return str(file), status.st_size, status.st_mtime_ns, status.st_ino


@lru_cache(maxsize=256)
def _has_mark(stamp: _Stamp) -> bool:
    tail = b""
    try:
        with open(stamp[0], "rb") as file:
            while block := file.read(1 << 20):
                if _MARK in tail + block:
                    return True
                tail = block[-len(_MARK) :]
    except OSError:
        pass
    return False
