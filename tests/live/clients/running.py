"""Runs the client programs against two gateways in this process."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
WAIT = 240
ENVIRONMENTS = {"python/llamaindex.py": "llamaindex", "python/pydanticai.py": "pydantic-ai"}
"""Programs with an environment of their own."""


class Gateways(NamedTuple):
    """Addresses of the gateways."""

    real: str
    """Over the demo model."""
    scripted: str
    """Over the scripted engine."""


def installed() -> Path:
    """The directory that scripts/clients.py makes."""
    there = Path(os.environ.get("MINER_CLIENTS") or "missing")
    assert there.is_dir(), "set MINER_CLIENTS to what scripts/clients.py prints, or run scripts/clients"
    return there


async def program(path: str, gateways: Gateways) -> dict[str, Any]:
    """What the cases of a program told."""
    command = [installed() / ENVIRONMENTS.get(path, "python") / "bin" / "python", HERE / path]
    if path.endswith(".mjs"):
        command = ["node", linked(path)]
    output = await run(command, gateways.real, gateways.scripted)
    told: dict[str, Any] = json.loads(output.splitlines()[-1])
    return told


def linked(path: str) -> Path:
    """The program beside the packages, where node looks for them."""
    folder = installed() / "javascript" / "programs"
    folder.mkdir(exist_ok=True)
    for source in (HERE / "javascript").glob("*.mjs"):
        copy = folder / source.name
        if not copy.exists() or copy.read_bytes() != source.read_bytes():
            partial = copy.with_suffix(f".{os.getpid()}")
            partial.write_bytes(source.read_bytes())
            partial.replace(copy)
    return folder / Path(path).name


async def run(command: Any, *arguments: str, code: int | None = 0, cwd: Any = None, **environment: str) -> str:
    """Standard output of a command, which ends within WAIT with this exit code; in an environment of its own."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *map(str, command), *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, cwd=cwd, env={**kept, "NO_COLOR": "1", **environment}, start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(WAIT):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, 9)
            await process.wait()
    assert code is None or process.returncode == code, (out.decode()[-4000:], err.decode()[-4000:])
    if code is None:
        return f"{out.decode()}\n{err.decode()}"
    return out.decode()
