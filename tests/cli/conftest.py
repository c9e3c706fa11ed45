"""The command line as a user runs it: a process of its own, in an empty directory, without this machine's settings."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.forked import ForkedMiner
from tests.paths import ROOT

LONG = 600.0
"""Seconds after which something hangs. Not what a command may take: other work may leave it a tenth of a core."""


def environment(directory: Path, **settings: str) -> dict[str, str]:
    """Nothing of the tester's own settings; warnings are errors, as in the tests."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "SYSTEMROOT", "VIRTUAL_ENV") if name in os.environ}
    root = str(ROOT)
    return kept | {
        "HOME": str(directory), "XDG_CACHE_HOME": str(directory / "cache"), "PYTHONPATH": root,
        "PYTHONWARNINGS": "error",        "COLUMNS": "80", "PYTHONUTF8": "1",
    } | settings  # fmt: skip


class Miner:
    """Runs `miner` in a directory."""

    def __init__(self, directory: Path, forked: ForkedMiner) -> None:
        self.directory = directory
        self._forked = forked
        self._started: list[subprocess.Popen[bytes]] = []

    def __call__(
        self, *arguments: str, stdin: bytes | None = None, **settings: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run to the end: as a copy of a process that has imported it, where nothing is set that Python reads first."""
        if any(name.startswith("PYTHON") for name in settings):
            return self.from_scratch(*arguments, **settings)
        return self._forked.run(list(arguments), stdin, self.directory, environment(self.directory, **settings), LONG)

    def from_scratch(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[bytes]:
        """Run `python -m miner` to the end."""
        return self._run(["-m", "miner", *arguments], settings)

    def run_script(self, script: Path, **settings: str) -> subprocess.CompletedProcess[bytes]:
        """Run a script in the same surroundings."""
        return self._run([str(script)], settings)

    def _run(self, arguments: list[str], settings: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=self.directory,
            env=environment(self.directory, **settings),
            timeout=LONG,
        )

    def start(self, *arguments: str, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE, **settings: str):
        """Start and return the process; whatever is left of it is killed after the test."""
        return self._start(["-m", "miner", *arguments], stdout, stderr, settings)

    def start_script(self, script: Path, **settings: str):
        """Start a script in the same surroundings."""
        return self._start([str(script)], subprocess.PIPE, subprocess.PIPE, settings)

    def _start(self, arguments: list[str], stdout: int, stderr: int, settings: dict[str, str]):
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=self.directory,
            env=environment(self.directory, **settings),
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait(LONG)
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()


def first_text(process: subprocess.Popen[bytes], most: int = 1000) -> bytes:
    """What the process writes first, as soon as it does; b"" if it ends silently."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], LONG)
    assert ready, f"nothing was written within {LONG:g} s"
    return os.read(process.stdout.fileno(), most)


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedMiner]:
    process = ForkedMiner(environment(tmp_path_factory.mktemp("forked")))
    yield process
    process.end()


@pytest.fixture
def miner(tmp_path: Path, forked: ForkedMiner) -> Iterator[Miner]:
    runner = Miner(tmp_path, forked)
    yield runner
    runner.end()
