"""What `miner serve` says of itself: to a log, to a program, and to a person at a terminal of any width."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import struct
import subprocess
import sys

import pytest

from tests.cli.conftest import environment
from tests.gateway.server.test_run import CHAT, WAIT, miner_serve
from tests.gateway.serving import post
from tests.servers import faults
from tests.servers.openai_stub import StubServer
from tests.servers.ports import closed_port

pytestmark = pytest.mark.process


async def test_a_program_reads_what_is_served_and_how_it_ended(tmp_path):
    async with StubServer() as engine, miner_serve(
        "--port", "0", "--log", "json", tmp_path=tmp_path, VLLM_API_BASE=engine.v1, MINER_API_KEYS="k" * 20,
    ) as server:  # fmt: skip
        await server.until_said('"event": "ready"')
        server.process.send_signal(signal.SIGTERM)
        assert await server.ended() == 0
    told = {one["event"]: one for one in map(json.loads, server.said.splitlines()) if "event" in one}
    assert list(told) == ["serving", "ready", "stopped"]
    assert told["serving"]["keys"] == {"MINER_API_KEYS": 1}
    assert told["serving"]["docs"] == f"{told['serving']['addresses'][0]}/docs"
    assert [model["name"] for model in told["ready"]["models"]] == ["m"]
    assert told["ready"]["seconds"] > 0
    assert "--key KEY" in told["ready"]["next"]
    assert (told["stopped"]["signal"], told["stopped"]["exit_status"]) == ("SIGTERM", 0)
    assert "k" * 20 not in server.said


async def test_the_end_counts_what_was_finished_and_cancelled(tmp_path):
    engine = StubServer(reply=faults.silent_in_stream(["Hel"]))
    async with engine, miner_serve(
        "--port", "0", tmp_path=tmp_path, VLLM_API_BASE=engine.v1, MINER_SERVE_GRACE="0.3", MINER_SERVE_PRELOAD="false"
    ) as server:  # fmt: skip
        await server.until_serving()
        async with post(server, CHAT) as answer:
            await answer.content.readline()
            server.process.send_signal(signal.SIGTERM)
            await answer.text()
        assert await server.ended() == 0
    last = server.said.splitlines()[-1]
    assert "Stopped by SIGTERM after" in last
    assert "0 requests finished" in last
    assert "1 cancelled. Exit status 0." in last


async def test_a_backend_that_is_down_is_told_once(tmp_path):
    address = f"http://127.0.0.1:{closed_port()}/v1"
    async with miner_serve(
        "--port", "0", tmp_path=tmp_path, VLLM_API_BASE=address, MINER_SERVE_PRELOAD="false"
    ) as server:  # fmt: skip
        await server.until_said("Not ready yet:")
        await asyncio.sleep(1)
        server.process.send_signal(signal.SIGTERM)
        assert await server.ended() == 0
    assert server.said.count("Not ready yet:") == 1
    assert "Ready after" not in server.said


@pytest.mark.parametrize("columns", [40, 80, 200])
async def test_a_person_reads_short_lines(columns, tmp_path):
    async with StubServer() as engine:
        text = await asyncio.to_thread(_on_terminal, columns, tmp_path, engine.v1)
    lines = text.splitlines()
    assert lines[0].startswith("miner ")
    assert sum("Ready after" in line for line in lines) == 1
    assert any(line.startswith("Try: miner chat --url http://127.0.0.1:") for line in lines)
    assert "Stopped by SIGTERM" in lines[-1]
    own = [
        line for line in lines[: lines.index(next(line for line in lines if "Ready after" in line))] if "Z " not in line
    ]
    assert all(len(line) <= columns or "http" in line for line in own)
    assert ("curl " in text) == (columns >= 60)


def _on_terminal(columns, directory, address):
    """What `miner serve` writes to a terminal until it is ready and stopped."""
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    settings = {"LLM_BACKEND": "vllm", "DEFAULT_MODEL": "m", "VLLM_API_BASE": address, "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-m", "miner", "serve", "--port", "0"], cwd=directory, stderr=theirs,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment(directory, **settings),
    )  # fmt: skip
    os.close(theirs)
    text, stopped = b"", False
    try:
        while True:
            try:
                read = os.read(ours, 4096)
            except OSError:  # the other side is closed
                break
            if not read:
                break
            text += read
            if b"Try: " in text and not stopped:
                stopped = True
                process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT) == 0
    finally:
        process.kill()
        process.wait(WAIT)
        os.close(ours)
    return text.decode()


async def test_an_error_at_start_is_an_object_too_and_said_once(tmp_path):
    async with miner_serve("--host", "0.0.0.0", "--log", "json", tmp_path=tmp_path) as server:
        assert await server.ended() == 2
    (record,) = map(json.loads, server.said.splitlines())
    assert (record["level"], record["event"], record["exit_status"]) == ("critical", "failed", 2)
    assert "no API keys" in record["message"]
    assert "MINER_API_KEYS" in record["hint"]


async def test_an_open_address_is_named_with_one_that_can_be_called(tmp_path):
    async with StubServer() as engine, miner_serve(
        "--port", "0", "--host", "0.0.0.0", "--allow-unauthenticated", "--log", "json", tmp_path=tmp_path,
        VLLM_API_BASE=engine.v1,
    ) as server:  # fmt: skip
        await server.until_said('"event": "ready"')
        server.process.send_signal(signal.SIGTERM)
        assert await server.ended() == 0
    told = {one["event"]: one for one in map(json.loads, server.said.splitlines()) if "event" in one}
    assert told["serving"]["addresses"][0].startswith("http://0.0.0.0:")
    assert told["ready"]["next"].startswith("miner chat --url http://127.0.0.1:")
