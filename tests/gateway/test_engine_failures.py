"""Faults while 50 streams run, in all dialects: each stream ends properly or with a typed error, and the next works."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from contextlib import asynccontextmanager

import aiohttp
import psutil
import pytest

from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.core.llms.llm_vllm import VLLMService
from tests.gateway.serving import config, serving
from tests.servers import faults
from tests.servers.openai_stub import StubServer
from tests.servers.ports import closed_port

pytestmark = pytest.mark.engine

WAIT = 120
STREAMS = 50
SLOTS = 8
STORY = [{"role": "user", "content": "Tell a very long story."}]
PATHS = ("/v1/chat/completions", "/api/chat", "/v1/messages", "/v1/responses", "/v1/completions")


def body_of(path, tokens):
    if path == "/api/chat":
        return {"model": "demo", "messages": STORY, "stream": True, "options": {"num_predict": tokens}}
    if path == "/v1/responses":
        return {"model": "demo", "input": STORY, "stream": True, "max_output_tokens": tokens}
    if path == "/v1/completions":
        return {"model": "demo", "prompt": "Once upon a time", "stream": True, "max_tokens": tokens}
    return {"model": "demo", "messages": STORY, "stream": True, "max_tokens": tokens}


def code_of(path, status, text):
    """How a stream ended: None: properly; else the code of its error, or its words where the dialect has no codes.

    Fails where it is neither: cut off, or an error that a proper end follows.
    """
    if status != 200:
        return told_code(path, json.loads(text))
    if path == "/api/chat":
        lines = [json.loads(line) for line in text.splitlines()]
        assert all("error" not in line and not line.get("done") for line in lines[:-1])
        return None if lines[-1].get("done") else told_code(path, lines[-1])
    assert text.endswith("\n\n")
    events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    if events[-1] == "[DONE]":
        assert not any(event.startswith('{"error"') for event in events)
        return None
    last = json.loads(events[-1])
    if last.get("type") in ("message_stop", "response.completed", "response.incomplete"):
        return None
    return told_code(path, last)


def told_code(path, told):
    if path == "/api/chat":
        return told["error"]
    if path == "/v1/messages":
        return told["error"]["details"]["error_code"]
    if told.get("type") == "response.failed":
        return told["response"]["error"]["code"]
    return told["code"] if told.get("type") == "error" else told["error"]["code"]


class Streams:
    """50 streams at once, each read to its end."""

    def __init__(self, url, session, tokens):
        self.begun = 0
        """Streams of which something has come."""
        self._url, self._session = url, session
        self._tasks = [
            asyncio.create_task(self._read(PATHS[number % len(PATHS)], tokens(number))) for number in range(STREAMS)
        ]

    async def _read(self, path, tokens):
        async with self._session.post(self._url + path, json=body_of(path, tokens)) as answer:
            first = await answer.content.readline()
            self.begun += 1
            return code_of(path, answer.status, (first + await answer.content.read()).decode())

    async def until_begun(self, count):
        async with asyncio.timeout(WAIT):
            while self.begun < count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def ends(self):
        """How many ended how: {None: properly, code: with this error}."""
        async with asyncio.timeout(WAIT):
            return Counter(await asyncio.gather(*self._tasks))


@asynccontextmanager
async def streams(url, tokens=lambda number: 3):
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Streams(url, session, tokens)


async def ask(url):
    """One request more; how it ended."""
    path = PATHS[0]
    async with aiohttp.ClientSession() as session, session.post(url + path, json=body_of(path, 3)) as answer:
        return code_of(path, answer.status, await answer.text())


def llamacpp(**settings):
    return LlamaCppService(
        config(default_model="demo", llamacpp_threads=1, llamacpp_parallel=SLOTS, llamacpp_ctx_size=1024, **settings)
    )


async def engine_of(service):
    async with asyncio.timeout(WAIT):
        while not (engines := (await service.health()).engines) or engines[0].pid is None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return psutil.Process(engines[0].pid)


def engines_here():
    return [child for child in psutil.Process().children(recursive=True) if "child.py" in " ".join(child.cmdline())]


async def test_the_engine_is_killed():
    service = llamacpp()
    async with serving(service) as served:
        assert await ask(served.url) is None
        async with streams(served.url, lambda number: 900 if number < 4 else 3) as running:
            await running.until_begun(SLOTS)
            killed = await engine_of(service)
            killed.kill()
            ends = await running.ends()
        assert await ask(served.url) is None
        assert (await engine_of(service)).pid != killed.pid
        assert not served.gateway.requests
    broken = set(ends) - {None}
    assert broken
    # Those that ran are told so, each in its dialect; those that waited are served by the next engine.
    assert all(code in ("engine_crashed", "server_error") or "crashed" in code for code in broken)
    assert ends[None] >= STREAMS - 2 * SLOTS
    assert engines_here() == []


@pytest.mark.parametrize("phase", ["serving", "starting"])
async def test_the_engine_is_stopped(phase):
    service = llamacpp()
    async with serving(service) as served:
        if phase == "serving":
            assert await ask(served.url) is None
        async with streams(served.url, lambda number: 900 if number < 4 else 3) as running:
            if phase == "serving":
                await running.until_begun(SLOTS)
            stopped = await engine_of(service)
            stopped.suspend()
            ends = await running.ends()
        assert set(ends) - {None}
        assert await ask(served.url) is None
        assert (await engine_of(service)).pid != stopped.pid  # one that is stopped is replaced
        assert not served.gateway.requests
    assert engines_here() == []


async def test_the_engine_keeps_on_dying():
    service = llamacpp()
    async with serving(service) as served, aiohttp.ClientSession() as session:
        for _ in range(3):
            assert await ask(served.url) is None
            killed = await engine_of(service)
            killed.kill()
            async with asyncio.timeout(WAIT):
                while (await service.health()).engines[0].pid is not None:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        for path in PATHS:
            async with session.post(served.url + path, json=body_of(path, 3)) as response:
                assert response.status == 503
                left = int(response.headers["Retry-After"])
                assert 10 < left <= 30
                assert "failed 3 times" in await response.text()
        async with asyncio.timeout(WAIT):
            while (ready := await get(session, f"{served.url}/readyz"))[0] == 200:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        status, headers, text = ready
        assert status == 503
        assert 5 < int(headers["Retry-After"]) <= left
        assert "next attempt is in" in text
        service.reset_model("demo")
        assert await ask(served.url) is None
        async with asyncio.timeout(WAIT):
            while (await get(session, f"{served.url}/readyz"))[0] != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.1)


async def get(session, url):
    async with session.get(url) as response:
        return response.status, response.headers, await response.text()


async def test_the_network_breaks():
    async with StubServer(models=["demo"], reply=faults.reset(["Hel"])) as engine:
        service = VLLMService(config(default_model="demo", vllm_api_base=engine.v1))
        async with serving(service) as served:
            async with streams(served.url) as running:
                ends = await running.ends()
            engine.reply = "Hello."
            assert await ask(served.url) is None
            assert not served.gateway.requests
    broken = "vllm sent an incomplete response"
    assert sum(ends.values()) == STREAMS
    assert all(code in ("stream_interrupted", "server_error") or code.startswith(broken) for code in ends)


@pytest.mark.parametrize("how", ["full", "closed"])
async def test_nothing_can_be_logged(how, tmp_path):
    """And where standard error is closed, no connection gets its number: the log would be written to it."""
    port = closed_port()
    url = f"http://127.0.0.1:{port}"
    serve = f"exec {sys.executable} -m miner serve --port {port} --log json"
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR", "SYSTEMROOT")}
    async with StubServer(models=["demo"], reply=faults.slow(0.0, ["Hello"] * 5, between=0.1)) as engine:
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", serve + (" >/dev/full 2>&1" if how == "full" else " <&- >&- 2>&-"), cwd=tmp_path,
            env={
                **kept, "PYTHONPATH": os.getcwd(), "LLM_BACKEND": "vllm", "DEFAULT_MODEL": "demo",
                "VLLM_API_BASE": engine.v1,
            },
        )  # fmt: skip
        try:
            await until_alive(url, process)
            written = os.readlink(f"/proc/{process.pid}/fd/2")
            assert written == ("/dev/full" if how == "full" else os.devnull)
            async with streams(url) as running:
                assert await running.ends() == {None: STREAMS}
            engine.reply = faults.reset(["Hel"])  # what the server has to say of that is lost
            async with streams(url) as running:
                assert None not in await running.ends()
            engine.reply = "Hello."
            assert await ask(url) is None
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), WAIT) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def until_alive(url, process):
    async with aiohttp.ClientSession() as session, asyncio.timeout(WAIT):
        while process.returncode is None:
            try:
                async with session.get(f"{url}/livez") as answer:
                    assert answer.status == 200
                    return
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.05)
    raise AssertionError(f"it ended with {process.returncode}")
