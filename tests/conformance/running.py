"""Runs the conformance suite as a user does: in a process of its own, from another folder."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

from tests.conformance import small_engine

ROOT = Path(__file__).parents[2]


def register_small_engines(folder: Path) -> None:
    """A distribution in `folder` that registers the backends of small_engine.py."""
    info = folder / "small_engine-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: small-engine\nVersion: 1.0\n")
    classes = [
        cls for cls in vars(small_engine).values() if isinstance(cls, type) and cls.__module__ == small_engine.__name__
    ]
    points = [f"{cls.name} = tests.conformance.small_engine:{cls.__name__}" for cls in classes]  # type: ignore[attr-defined]
    (info / "entry_points.txt").write_text("[inference.backends]\n" + "\n".join(points) + "\n")


async def conformance(folder: Path, backend: str, *more: str, env: dict[str, str] | None = None, seconds: float = 600):
    """Exit status and output of `pytest --pyargs miner.conformance --miner-backend NAME`."""
    environment = {**os.environ, **(env or {})}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), str(ROOT)])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pytest", "--pyargs", "miner.conformance", "--miner-backend", backend, "-q",
        "-p", "no:cacheprovider", *more,
        cwd=folder, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
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
