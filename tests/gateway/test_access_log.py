"""The access log: what stands in a line, what never does, and a log that cannot be written."""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading

import pytest

from miner.gateway.access_log import AccessLog, PromptLog
from miner.gateway.app import default_stages
from miner.gateway.log_writer import LogWriter
from miner.gateway.settings import GatewaySettings
from tests.gateway.serving import Parrot, config, post, serving
from tests.gateway.test_limits import Gated, ask, until

KEY = "0123456789abcdef"
SECRET = "the secret of the prompt"
CHAT = {"messages": [{"role": "user", "content": SECRET}], "model": "m"}


def stages(log, **settings):
    rest = default_stages(GatewaySettings(_env_file=None, serve_log="off", **settings))
    return [log, *rest]


@pytest.fixture
def file(tmp_path):
    fd = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def lines(fd):
    return os.pread(fd, 1 << 20, 0).decode().splitlines()


async def test_json_tells_what_is_known_and_no_secret(file):
    log = AccessLog("json", fd=file)
    async with serving(Parrot(config()), stages=stages(log, api_keys=KEY)) as served:
        headers = {"x-api-key": KEY, "x-request-id": "mine"}
        async with post(served, {**CHAT, "stream": True}, headers=headers) as answer:
            await answer.read()
        async with post(served, CHAT, "/nowhere\u2028x", headers={"x-api-key": "wrong-key-wrong-key"}) as answer:
            assert answer.status == 401
    first, second = (json.loads(line) for line in lines(file))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    told = {name: first[name] for name in ("address", "key", "method", "route", "status", "model", "stream", "id")}
    assert told == {
        "address": "127.0.0.1", "key": "MINER_API_KEYS-1", "method": "POST", "route": "/v1/chat/completions",
        "status": 200, "model": "m", "stream": True, "id": "mine",
    }  # fmt: skip
    assert 0 <= first["ttft"] <= first["seconds"]
    assert first["tokens_out"] >= 1
    assert (second["status"], second["error"]) == (401, "invalid_api_key")
    text = "\n".join(lines(file))
    for secret in (KEY, "wrong-key", SECRET):
        assert secret not in text


async def test_text_is_one_line_whatever_the_client_sends(file):
    async with serving(Parrot(config()), stages=stages(AccessLog("text", fd=file))) as served:
        assert (await ask(served, model='evil"\n2026 model=\u001b[31m')).status == 200
    [line] = lines(file)
    assert re.match(r"\S+ 127\.0\.0\.1 anybody POST /v1/chat/completions 200 model=\"evil\\\"\\n2026", line)
    assert "\x1b" not in line


async def test_prompts_when_asked(file):
    async with serving(Parrot(config()), stages=stages(PromptLog("json", fd=file))) as served:
        await ask(served, stream=True, messages=CHAT["messages"])
    [line] = lines(file)
    told = json.loads(line)
    assert SECRET in told["prompt"]
    assert SECRET in told["reply"]


async def test_who_hung_up(file):
    service = Gated(config())
    async with serving(service, stages=stages(AccessLog("json", fd=file))) as served:
        asking = asyncio.create_task(ask(served))
        await until(lambda: service.running == 1)
        asking.cancel()
        await asyncio.wait([asking])
        await until(lambda: not served.gateway.present)
    [line] = lines(file)
    assert json.loads(line)["cancelled"] is True
    assert json.loads(line)["status"] == 499


async def test_a_full_disk_and_a_closed_pipe_break_no_request():
    full = os.open("/dev/full", os.O_WRONLY)
    reading, writing = os.pipe()
    os.close(reading)
    try:
        for fd in (full, writing):
            async with serving(Parrot(config()), stages=stages(AccessLog("json", fd=fd))) as served:
                for _ in range(3):
                    assert (await ask(served)).status == 200
                    await asyncio.sleep(0.15)
    finally:
        os.close(full)
        os.close(writing)


async def test_a_reader_that_stands_still_holds_nobody_up():
    reading, writing = os.pipe()
    os.set_blocking(writing, True)
    log = AccessLog("json", fd=writing)
    try:
        async with serving(Parrot(config()), stages=stages(log)) as served:
            log._writer.write(b"x" * (1 << 20) + b"\n")  # more than a pipe holds: the thread hangs in it
            await asyncio.sleep(0.3)
            for _ in range(5):
                assert (await asyncio.wait_for(ask(served), 30)).status == 200
            for _ in range(9):
                log._writer.write(b"x" * (1 << 20))
            assert log._writer.lost >= 1  # memory is bounded: what does not fit is lost
    finally:
        os.set_blocking(reading, False)
        for _ in range(600):
            try:
                os.read(reading, 1 << 20)
            except BlockingIOError:
                if not any(thread.name == "access log" for thread in threading.enumerate()):
                    break
            await asyncio.sleep(0.02)
        os.close(reading)
        os.close(writing)


async def test_lost_lines_are_told(tmp_path):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.write(writing, b"x" * 65536)  # full
    writer = LogWriter(writing)
    writer.write(b"one\n")
    await until(lambda: writer.lost == 1)
    while len(os.read(reading, 65536)) == 65536:
        break
    writer.write(b"two\n")
    await writer.close()
    assert os.read(reading, 65536) == b"miner: 1 lines of the access log were lost\ntwo\n"
    os.close(reading)
    os.close(writing)
