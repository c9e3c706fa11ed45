"""`miner serve` as a process: addresses, signals, the grace time."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from contextlib import asynccontextmanager

import aiohttp
import pytest

from tests.gateway.serving import post
from tests.servers import faults
from tests.servers.openai_stub import StubServer

pytestmark = pytest.mark.process

WAIT = 120
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}


class Server:
    def __init__(self, process):
        self.process = process
        self.said = ""
        self.url = ""

    async def until_said(self, wanted):
        """Read its log until this regular expression is found in it."""
        while not (found := re.search(wanted, self.said)):
            line = await asyncio.wait_for(self.process.stderr.readline(), WAIT)
            assert line, self.said
            self.said += line.decode()
        return found

    async def until_serving(self):
        self.url = (await self.until_said(r"at (http://\S+)")).group(1)

    async def ended(self):
        rest = await asyncio.wait_for(self.process.stderr.read(), WAIT)
        self.said += rest.decode()
        return await asyncio.wait_for(self.process.wait(), WAIT)


@asynccontextmanager
async def miner_serve(*arguments, tmp_path, **environment):
    """`miner serve` with these arguments and nothing else in its environment."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR", "SYSTEMROOT")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "miner", "serve", *arguments, cwd=tmp_path, stderr=asyncio.subprocess.PIPE,
        env={**kept, "PYTHONPATH": os.getcwd(), "LLM_BACKEND": "vllm", "DEFAULT_MODEL": "m", **environment},
    )  # fmt: skip
    try:
        yield Server(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_an_open_address_needs_keys(tmp_path):
    async with miner_serve("--host", "0.0.0.0", tmp_path=tmp_path) as server:
        assert await server.ended() == 2
    assert server.said.splitlines()[0] == "miner: 0.0.0.0 can be reached by others, and there are no API keys."
    assert "export MINER_API_KEYS=" in server.said.splitlines()[1]
    assert len(server.said.splitlines()) == 2


@pytest.mark.parametrize("host", ["256.1.1.1", "no such name"])
async def test_what_is_no_address_is_said_before_keys(host, tmp_path):
    async with miner_serve(tmp_path=tmp_path, MINER_SERVE_HOST=host) as server:
        assert await server.ended() == 2
    first, second = server.said.splitlines()
    assert first.startswith(f"miner: {host!r} is not an address of this machine")
    assert "MINER_SERVE_HOST" in second
    assert "keys" not in server.said


async def test_a_port_that_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with miner_serve("--port", str(taken.getsockname()[1]), tmp_path=tmp_path) as server:
            assert await server.ended() == 2
        assert "Cannot listen on" in server.said


@pytest.mark.parametrize("form", ["json", "text"])
async def test_every_line_of_the_log_has_one_form(form, tmp_path):
    engine = StubServer(reply=faults.reset(["Hel"]))
    async with (
        engine,
        miner_serve(
            "--port", "0", "--log", form, "--log-level", "DEBUG", tmp_path=tmp_path, VLLM_API_BASE=engine.v1,
            MINER_MAX_RETRIES="0", MINER_SERVE_PRELOAD="false", MINER_NO_SUCH_SETTING="1",
        ) as server,
    ):  # fmt: skip
        await server.until_serving()
        async with post(server, {**CHAT, "stream": False}, headers={"x-request-id": "mine"}) as answer:
            assert answer.status >= 500
        server.process.send_signal(signal.SIGTERM)
        assert await server.ended() == 0
    lines = server.said.splitlines()
    if form == "json":
        told = [json.loads(line) for line in lines]
        assert all({"time", "level", "logger", "message"} <= set(one) for one in told)
        assert {one["level"] for one in told} >= {"info", "warning"}
        assert sum(one["logger"] == "miner.gateway" and one.get("id") == "mine" for one in told) == 1
    else:
        assert all(re.match(r"\S+Z (DEBUG|INFO|WARNING) [\w.]+ ", line) for line in lines)
        assert sum(" WARNING miner.gateway " in line and "id=mine" in line for line in lines) == 1


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (("--backend", "typo"), {}, "There is no backend 'typo'."),
        (("--backend", "typo"), {"MINER_LLM_FALLBACKS": "ollama"}, "There is no backend 'typo'."),
        (("--port", "99999"), {}, "--port 99999: "),
        (("--port", "x"), {}, "--port 'x': "),
        (("--host", ""), {}, "--host '': "),
        (("--log", "xml"), {}, "--log 'xml': "),
        ((), {"MINER_SERVE_PORT": "99999"}, "MINER_SERVE_PORT='99999': "),
    ],
)
async def test_what_was_typed_is_named_and_nothing_else_is_served(arguments, settings, said, tmp_path):
    async with miner_serve(*arguments, tmp_path=tmp_path, **settings) as server:
        assert await server.ended() == 2
    assert server.said.startswith(f"miner: {said}")


@pytest.mark.parametrize("level", ["loud", "WARN"])
async def test_a_level_that_there_is_not(level, tmp_path):
    async with miner_serve("--log-level", level, tmp_path=tmp_path) as server:
        assert await server.ended() == 2
    assert "debug, info, warning, error" in server.said


async def test_sigterm_lets_streams_finish_and_says_not_ready_at_once(tmp_path):
    engine = StubServer(reply=faults.ok(["x"]))
    async with engine, miner_serve("--port", "0", tmp_path=tmp_path, VLLM_API_BASE=engine.v1) as server:
        await server.until_serving()
        async with aiohttp.ClientSession() as session:
            await _until_ready(session, server)
            release = asyncio.Event()
            engine.reply = faults.held(release)
            async with session.post(f"{server.url}/v1/chat/completions", json=CHAT) as answer:
                await answer.content.readline()
                server.process.send_signal(signal.SIGTERM)
                async with asyncio.timeout(WAIT):
                    while (await _status(session, server)) != 503:
                        pass
                release.set()
                text = await answer.text()
        assert text.endswith("data: [DONE]\n\n")
        assert await server.ended() == 0


@pytest.mark.parametrize(("signals", "grace", "status"), [(1, "0.5", 0), (2, "600", 128 + signal.SIGTERM)])
async def test_the_grace_time_ends_and_a_second_signal_ends_it_sooner(signals, grace, status, tmp_path):
    engine = StubServer(reply=faults.silent_in_stream(["Hel"]))
    async with engine, miner_serve(
        "--port", "0", tmp_path=tmp_path, VLLM_API_BASE=engine.v1, MINER_SERVE_GRACE=grace, MINER_SERVE_PRELOAD="false"
    ) as server:  # fmt: skip
        await server.until_serving()
        async with post(server, CHAT) as answer:
            await answer.content.readline()
            server.process.send_signal(signal.SIGTERM)
            await server.until_said("Shutting down")  # one that is still pending would swallow the second
            for _ in range(signals - 1):
                server.process.send_signal(signal.SIGTERM)
            text = await answer.text()
        await engine.wait_for_disconnects(1)
        assert await server.ended() == status
    assert f"Shutting down: 1 request has {grace} s to finish; a second signal cancels it." in server.said
    assert '"code":"shutting_down"' in text
    assert "[DONE]" not in text


async def _status(session, server):
    async with session.get(f"{server.url}/readyz") as ready:
        return ready.status


async def _until_ready(session, server):
    async with asyncio.timeout(WAIT):
        while await _status(session, server) != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
