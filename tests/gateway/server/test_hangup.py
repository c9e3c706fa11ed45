"""SIGHUP to `miner serve`: a reload, or the end of its terminal."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import sys
from pathlib import Path

import pytest

from tests.gateway.server.test_run import CHAT, WAIT, Server, miner_serve
from tests.gateway.serving import post
from tests.servers import faults
from tests.servers.openai_stub import StubServer

pytestmark = pytest.mark.process

NOTHING = "SIGHUP: nothing to reload, since no miner.toml is in use."
ON_TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
if sys.argv[1] == "nohup":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, "-m", "miner", "serve", "--port", "0"])
"""


class OnTerminal(Server):
    """`miner serve` in the foreground of a terminal of its own, its log in a pipe."""

    def __init__(self, process, terminal):
        super().__init__(process)
        self.terminal = terminal

    def close_terminal(self):
        os.close(self.terminal)
        self.terminal = None


@pytest.fixture
async def on_terminal(tmp_path):
    servers = []

    async def start(engine, how="plain"):
        ours, theirs = pty.openpty()
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR")}
        settings = {"LLM_BACKEND": "vllm", "DEFAULT_MODEL": "m", "VLLM_API_BASE": engine.v1}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", ON_TERMINAL, how, stdin=theirs, stdout=theirs, stderr=asyncio.subprocess.PIPE,
            cwd=tmp_path, start_new_session=True, env={**kept, "PYTHONPATH": os.getcwd(), **settings},
        )  # fmt: skip
        os.close(theirs)
        servers.append(OnTerminal(process, ours))
        await servers[-1].until_serving()
        await servers[-1].until_said("Ready after")
        return servers[-1]

    yield start
    for server in servers:
        if server.terminal is not None:
            server.close_terminal()
        if server.process.returncode is None:
            server.process.kill()
        await server.process.communicate()


async def test_without_a_file_it_is_told_and_serving_goes_on(tmp_path):
    async with StubServer() as engine, miner_serve(
        "--port", "0", tmp_path=tmp_path, VLLM_API_BASE=engine.v1
    ) as server:  # fmt: skip
        await server.until_said("Ready after")
        await server.until_serving()
        server.process.send_signal(signal.SIGHUP)
        await server.until_said(NOTHING)
        async with post(server, {**CHAT, "stream": False}) as answer:
            assert answer.status == 200, await answer.text()
        server.process.send_signal(signal.SIGTERM)
        assert await server.ended() == 0
    assert "Stopped by SIGTERM after" in server.said


async def test_while_it_starts_it_is_no_end(tmp_path):
    async with StubServer() as engine:
        environment = {**os.environ, "LLM_BACKEND": "vllm", "VLLM_API_BASE": engine.v1, "DEFAULT_MODEL": "m"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "miner", "serve", "--port", "0", cwd=tmp_path, env=environment,
            stderr=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        server = Server(process)
        try:
            async with asyncio.timeout(WAIT):
                while not _minds_hangup(process.pid):
                    assert process.returncode is None
                    await asyncio.sleep(0.001)
            process.send_signal(signal.SIGHUP)
            await server.until_said("Ready after")
            process.send_signal(signal.SIGTERM)
            assert await server.ended() == 0
        finally:
            if process.returncode is None:
                process.kill()


def _minds_hangup(pid):
    """Whether SIGHUP is ignored or handled: no process begins so, but for one under nohup."""
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    return (int(status["SigIgn"], 16) | int(status["SigCgt"], 16)) & 1 << signal.SIGHUP - 1


async def test_at_a_terminal_that_is_open_it_is_no_end_either(on_terminal):
    async with StubServer() as engine:
        server = await on_terminal(engine)
        server.process.send_signal(signal.SIGHUP)
        await server.until_said(NOTHING)
        server.process.send_signal(signal.SIGTERM)
        assert await server.ended() == 0


async def test_a_terminal_that_is_closed_stops_it_when_requests_are_done(on_terminal):
    engine = StubServer(reply=faults.slow(0, ["Hel", "lo", "."], between=0.7))
    async with engine:
        server = await on_terminal(engine)
        async with post(server, CHAT) as answer:
            await answer.content.readline()
            server.close_terminal()
            await server.until_said("Shutting down")
            server.process.send_signal(signal.SIGHUP)  # the shell passes it on
            assert "[DONE]" in await answer.text()
        assert await server.ended() == 0
    assert "Stopped by SIGHUP (its terminal was closed) after" in server.said
    assert "1 request finished" in server.said


async def test_nohup_outlives_its_terminal(on_terminal):
    async with StubServer() as engine:
        server = await on_terminal(engine, "nohup")
        server.close_terminal()
        await server.until_said(NOTHING)
        async with asyncio.timeout(WAIT), post(server, {**CHAT, "stream": False}) as answer:
            assert answer.status == 200
        server.process.send_signal(signal.SIGTERM)
        assert await server.ended() == 0
