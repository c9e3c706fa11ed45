"""Event loops, exits and closing: a service lives as long as it is referenced, and goes without warnings."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from miner.core.llms.LLMService import LLMService
from miner.errors import BackendError, BackendTimeoutError, BackendUnavailableError
from tests.core.llms.contract.test_failures import Faulty
from tests.core.services import (
    ENGINES,
    ask,
    nothing_left,
    read,
    service_at,
    speaking_to,
)
from tests.servers import faults
from tests.servers.ports import closed_port
from tests.servers.threaded import in_thread

TEXTS = ("a", "b", "c")


LIMITS: list[tuple[Any, str, faults.Behaviour]] = [
    ({"first": 0.2}, "exceeded timeout.first (0.2 s)", faults.silent(False)),
    ({"first": 0.2}, "exceeded timeout.first (0.2 s)", faults.silent_after_headers()),
    ({"between": 0.2}, "exceeded timeout.between (0.2 s)", faults.silent_in_stream(TEXTS)),
    ({"total": 0.2}, "exceeded timeout.total (0.2 s)", faults.silent_in_stream(TEXTS)),
    (0.2, "exceeded timeout.total (0.2 s)", faults.slow(0.0, ["x"] * 100, between=0.05)),
    ({"first": 20, "between": 0.2, "total": 20}, "timeout.between", faults.silent_in_stream(TEXTS)),
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", ["call", "stream"])
@pytest.mark.parametrize(("limit", "words", "behaviour"), LIMITS)
async def test_the_callers_bounds_stop_the_engine(
    engine: str, mode: str, limit: Any, words: str, behaviour: faults.Behaviour
):
    """The first token may take long, the next ones not."""
    async with (
        Faulty(behaviour, everywhere=False) as server,
        speaking_to(engine, server, default_model="smollm2") as service,
    ):
        if mode == "call" and behaviour.name in ("silent_in_stream", "slow") and limit in (0.2, {"total": 0.2}):
            server.behaviour = faults.silent(False)
        with pytest.raises(BackendTimeoutError) as caught:
            await ask(service, mode, timeout=limit)
        assert words in caught.value.message
        assert caught.value.backend == engine
        assert caught.value.hint
        if mode == "stream" and behaviour.name == "silent_in_stream":
            assert caught.value.partial.content == "abc"
        await server.wait_for_disconnects()
        await nothing_left()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", ["call", "stream"])
async def test_bounds_that_hold_change_nothing(engine: str, mode: str):
    async with Faulty(faults.ok()) as server, speaking_to(engine, server, default_model="smollm2") as service:
        for limit in (30, {"first": 30}, {"between": 30, "total": 30}):
            assert await ask(service, mode, timeout=limit) == "Hello there."


async def test_the_time_that_the_reader_takes_is_not_the_engines():
    async with (
        Faulty(faults.slow(0.0, ["x"] * 6, between=0.05)) as server,
        speaking_to("ollama", server, default_model="smollm2") as service,
    ):
        pieces = []
        async for chunk in service.stream("hi", timeout={"between": 1.0}):
            pieces.append(chunk.content or "")
            if len(pieces) == 2:
                await asyncio.sleep(1.3)
        assert "".join(pieces) == "xxxxxx"


def test_one_service_on_two_event_loops_in_turn():
    with in_thread(Faulty(faults.ok())) as server:
        for engine in ENGINES:
            service = service_at(engine, server.url, default_model="smollm2")

            async def both(service: LLMService) -> list[str]:
                return [await ask(service, "call"), await ask(service, "stream")]

            for _ in range(2):
                assert asyncio.run(both(service)) == ["Hello there."] * 2
                gc.collect(1)
            asyncio.run(service.aclose())


SCRIPT = """
import asyncio, sys
from miner.config.config import MinerConfig
from miner.core.llms.llm_ollama import OllamaService
from miner.core.llms.llm_vllm import VLLMService

url = sys.argv[1]
config = MinerConfig(_env_file=None, ollama_base_url=url, vllm_api_base=url + "/v1", default_model="smollm2")
services = [VLLMService(config), OllamaService(config)]

async def main():
    for service in services:
        print(await service.generate("hi"))
        async for chunk in service.stream("hi"):
            break

asyncio.run(main())
asyncio.run(main())
"""


@pytest.mark.process
def test_a_service_that_is_never_closed_makes_no_noise_at_exit(tmp_path: Path):
    (tmp_path / "script.py").write_text(SCRIPT)
    with in_thread(Faulty(faults.ok())) as server:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-X", "dev", str(tmp_path / "script.py"), server.url],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello there.\n" * 4, "")


async def test_closing_a_service_ends_what_runs_and_it_can_be_used_again():
    async with Faulty(faults.silent_in_stream(TEXTS)) as server:
        service = service_at("ollama", server.url, default_model="smollm2")
        stream = service.stream("hi")
        await anext(stream)
        await service.aclose()
        await service.aclose()
        await server.wait_for_disconnects()
        with pytest.raises(BackendError, match=r"incomplete response|no response|closed"):
            await read(stream)
        server.behaviour = faults.ok()
        assert await ask(service, "call") == "Hello there."
        await service.aclose()


async def test_an_engine_that_comes_up_later_is_simply_used():
    service = service_at("ollama", f"http://127.0.0.1:{(port := closed_port())}", default_model="smollm2")
    with pytest.raises(BackendUnavailableError):
        await ask(service, "call")
    server = Faulty(faults.ok())
    server.port = port
    async with server:
        assert await ask(service, "call") == "Hello there."
        await service.aclose()
