"""Runs the conformance suite as a user does: in a process of its own, from another directory."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.conformance import small_engine

ROOT = Path(__file__).parents[2]
SENSE = "json or schema or messages or tools or embeddings or progress or stop_stops or logit_bias_forbids"
"""The suite's tests (for `-k`) that need a model which writes words; the others pass on a model of random weights."""


def register_small_engines(directory: Path) -> None:
    """A distribution in `directory` that registers the backends of small_engine.py."""
    info = directory / "small_engine-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: small-engine\nVersion: 1.0\n")
    classes = [
        cls for cls in vars(small_engine).values() if isinstance(cls, type) and cls.__module__ == small_engine.__name__
    ]
    points = [f"{cls.name} = tests.conformance.small_engine:{cls.__name__}" for cls in classes]  # type: ignore[attr-defined]
    (info / "entry_points.txt").write_text("[inference.backends]\n" + "\n".join(points) + "\n")


_MANY = """
import sys, pytest
for run in sys.argv[1:]:
    backend, _, tests = run.partition(":")
    print(f"== {run}", flush=True)
    pytest.main(["--pyargs", "miner.conformance", "--miner-backend", backend, "-k", tests, "-q", "-x", "--tb=line",
                 "--miner-patience", "10", "-p", "no:cacheprovider"])
"""


async def outputs(directory: Path, runs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """What each backend's run prints of the tests that its `-k` selects, up to the first failure; in one process."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(directory), str(ROOT)]),
        # Other distributions' plugins take seconds to load; that ours is found by its entry point is seen elsewhere.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_PLUGINS": "miner.conformance.plugin",
    }
    output = await _output(
        [sys.executable, "-c", _MANY, *(f"{backend}:{tests}" for backend, tests in runs)], directory, environment, 300
    )
    parts = output[1].split("\n== ")
    assert len(parts) == len(runs), output[1][-3000:]
    return dict(zip(runs, parts, strict=True))


async def conformance(
    directory: Path, backend: str, *more: str, env: dict[str, str] | None = None, seconds: float = 600
):
    """Exit status and output of `pytest --pyargs miner.conformance --miner-backend NAME`."""
    environment = {**os.environ, **(env or {})}
    environment["PYTHONPATH"] = os.pathsep.join([str(directory), str(ROOT)])
    command = [
        sys.executable, "-m", "pytest", "--pyargs", "miner.conformance", "--miner-backend", backend, "-q",
        "-p", "no:cacheprovider", *more,
    ]  # fmt: skip
    return await _output(command, directory, environment, seconds)


async def _output(command: list[str], directory: Path, env: dict[str, str], seconds: float) -> tuple[int | None, str]:
    """Exit status and everything that a program prints."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=directory, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(seconds):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, output.decode()


def failed_tests(output: str) -> set[str]:
    """Names of the tests that failed, without parameters."""
    return set(re.findall(r"^(?:FAILED|ERROR) \S+::(\w+)", output, re.MULTILINE))


def unchecked_tests(output: str) -> set[str]:
    """Names of the tests that report "not checked", without parameters."""
    lines = re.findall(r"^  not checked \(.*?\): (test_.*)$", output, re.MULTILINE)
    return {name.partition("[")[0] for line in lines for name in re.findall(r"test_\w+", line)}
