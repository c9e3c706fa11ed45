"""A real vLLM as a command of miner.toml (`-m vllm`), beside a llama.cpp model, in a gateway of its own process."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.core.engine.children import DEMO
from tests.paths import ROOT

pytestmark = pytest.mark.vllm

START = 240  # seconds for the load of a real server on a busy machine
STORY = [{"role": "user", "content": "Tell a very long story."}]


def vllm_cpu() -> Any:
    """The script that knows how to start a vLLM."""
    found = importlib.util.spec_from_file_location("vllm_cpu", ROOT / "scripts" / "vllm_cpu.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def write_table(path: Path) -> None:
    script = vllm_cpu()
    command = script.server_command("${PORT}", "smollm2", [])
    env = ", ".join(f"{name} = {json.dumps(value)}" for name, value in script.SERVER_ENVIRONMENT.items())
    path.write_text(
        f"""
        [backends.gpu]
        kind = "vllm"
        command = {json.dumps(command)}
        env = {{ {env} }}
        [models.big]
        backend = "gpu"
        name = "smollm2"
        [models.small]
        backend = "llamacpp"
        file = "{DEMO}"
        context = 1024
        slots = 2
        """
    )


class Gateway:
    """`miner serve` in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, session: aiohttp.ClientSession, base: str) -> None:
        self.process, self.session, self.base = process, session, base

    async def get(self, path: str) -> Any:
        async with self.session.get(self.base + path) as reply:
            return await reply.json()

    async def post(self, path: str, body: Any = None) -> Any:
        async with self.session.post(self.base + path, json=body) as reply:
            return await reply.json()

    async def chat(self, model: str, **more: Any) -> Any:
        return await self.post("/v1/chat/completions", {"model": model, "messages": STORY, "max_tokens": 4, **more})

    async def stream(self, model: str, tokens: int, began: asyncio.Event) -> list[Any]:
        """All events of a stream."""
        body = {"model": model, "messages": STORY, "max_tokens": tokens, "ignore_eos": True, "stream": True}
        events = []
        async with self.session.post(f"{self.base}/v1/chat/completions", json=body) as reply:
            async for line in reply.content:
                if line.startswith(b"data: {"):
                    events.append(json.loads(line[6:]))
                    if len(events) == 4:
                        began.set()
        return events

    def family(self) -> list[psutil.Process]:
        """All processes that it has started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def find(self, words: str) -> psutil.Process:
        """The one whose command line or name has these words."""
        return next(each for each in self.family() if words in " ".join(each.cmdline()))


@contextlib.asynccontextmanager
async def gateway(tmp_path: Path):
    write_table(tmp_path / "miner.toml")
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR")}
    log = (tmp_path / "log").open("wb")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "miner", "serve", "--config", str(tmp_path / "miner.toml"), "--port", "0",
        env={**kept, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(tmp_path)}, cwd=tmp_path, stdout=log, stderr=log,
    )  # fmt: skip
    session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=START))
    try:
        async with asyncio.timeout(60):
            while "Serving at " not in (text := (tmp_path / "log").read_text()):
                assert process.returncode is None, text
                await asyncio.sleep(0.1)
        yield Gateway(process, session, text.split("Serving at ")[1].split()[0])
    finally:
        await session.close()
        if process.returncode is None:
            process.kill()
        await process.wait()
        log.close()


async def gone(processes: list[psutil.Process]) -> None:
    async with asyncio.timeout(20):
        while any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def served_again(gateway: Gateway, model: str) -> Any:
    """The first reply after a crash: until a server whose engine has died has exited too, it refuses requests."""
    async with asyncio.timeout(START):
        while True:
            reply = await gateway.chat(model)
            if "error" not in reply:
                return reply
            assert reply["error"]["type"] == "server_error", reply
            await asyncio.sleep(1)


async def test_a_vllm_that_is_killed_beside_a_llama_cpp_model(tmp_path):
    async with gateway(tmp_path) as served:
        assert await served.get("/readyz") == {"status": "ready"}
        loaded = await served.chat("big")
        assert loaded["model"] == "big"
        assert loaded["choices"][0]["message"]["content"]
        for victim in ("vllm.entrypoints", "VLLM::EngineCore"):  # the server, then its engine
            big, small = asyncio.Event(), asyncio.Event()
            streams = [
                asyncio.create_task(served.stream("big", 1500, big)),
                asyncio.create_task(served.stream("small", 200, small)),
            ]
            await asyncio.gather(big.wait(), small.wait())
            served.find(victim).send_signal(signal.SIGKILL)
            broken, whole = await asyncio.gather(*streams)
            assert broken[-1]["error"]["code"] in ("engine_crashed", "backend_error", "stream_interrupted"), broken[-1]
            assert whole[-1]["choices"][0]["finish_reason"] == "length"
            assert (await served.get("/readyz"))["status"] in ("ready", "loading")
            assert (await served_again(served, "big"))["model"] == "big"
        family = served.family()
        assert await served.post("/admin/models/big/unload") == {"model": "big", "unloaded": True}
        left = [each for each in served.family() if "vllm" in " ".join(each.cmdline()).lower()]
        assert left == []
        assert len(family) > len(served.family())


async def test_a_stop_lets_streams_end_and_leaves_nothing(tmp_path):
    async with gateway(tmp_path) as served:
        await served.chat("big")
        began = asyncio.Event()
        stream = asyncio.create_task(served.stream("big", 60, began))
        await began.wait()
        family = served.family()
        served.process.terminate()
        assert (await stream)[-1]["choices"][0]["finish_reason"] == "length"
        await gone(family)
        assert await asyncio.wait_for(served.process.wait(), 30) == 0


async def test_nothing_is_left_of_it_when_we_are_killed(tmp_path):
    async with gateway(tmp_path) as served:
        await served.chat("big")
        began = asyncio.Event()
        stream = asyncio.create_task(served.stream("big", 1500, began))
        await began.wait()
        family = served.family()
        assert len(family) > 3
        served.process.kill()
        await gone(family)
        with contextlib.suppress(aiohttp.ClientError):
            await stream
