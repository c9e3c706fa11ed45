"""The server's log: what stands in a line, what never does, who writes there, and a log that cannot be written."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import re
import threading
import time
import warnings

import aiohttp
import pytest

from miner.core.llms.llm_vllm import VLLMService
from miner.gateway.app import default_middleware
from miner.gateway.middleware.logging import AccessLog, PromptLog
from miner.gateway.server.log import server_log
from miner.gateway.settings import GatewaySettings
from tests.gateway.middleware.test_rate_limit import Gated, ask, until
from tests.gateway.serving import Parrot, config, post, serving

KEY = "0123456789abcdef"
SECRET = "the secret of the prompt"
CHAT = {"messages": [{"role": "user", "content": SECRET}], "model": "m"}


def middleware(log, **settings):
    rest = default_middleware(GatewaySettings(_env_file=None, serve_log="off", **settings))
    return [log, *rest]


@pytest.fixture
def file(tmp_path):
    fd = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def lines(fd):
    return os.pread(fd, 1 << 20, 0).decode().splitlines()


def objects(fd, logger=None):
    told = [json.loads(line) for line in lines(fd)]
    return [one for one in told if logger is None or one["logger"] == logger]


async def test_json_tells_what_is_known_and_no_secret(file):
    with server_log("json", "info", fd=file):
        async with serving(Parrot(config()), middleware=middleware(AccessLog(), api_keys=KEY)) as served:
            headers = {"x-api-key": KEY, "x-request-id": "mine"}
            async with post(served, {**CHAT, "stream": True}, headers=headers) as answer:
                await answer.read()
            async with post(served, CHAT, "/nowhere\u2028x", headers={"x-api-key": "wrong-key-wrong-key"}) as answer:
                assert answer.status == 401
    first, second = objects(file, "miner.access")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    names = ("level", "address", "key", "method", "route", "status", "model", "stream", "id")
    assert {name: first[name] for name in names} == {
        "level": "info", "address": "127.0.0.1", "key": "MINER_API_KEYS-1", "method": "POST",
        "route": "/v1/chat/completions", "status": 200, "model": "m", "stream": True, "id": "mine",
    }  # fmt: skip
    assert 0 <= first["ttft"] <= first["seconds"]
    assert first["tokens_out"] >= 1
    assert (second["status"], second["error"]) == (401, "invalid_api_key")
    text = "\n".join(lines(file))
    for secret in (KEY, "wrong-key", SECRET):
        assert secret not in text


async def test_text_is_one_line_whatever_the_client_sends(file):
    with server_log("text", "info", fd=file):
        async with serving(Parrot(config()), middleware=middleware(AccessLog())) as served:
            assert (await ask(served, model='evil"\n2026 model=\u001b[31m')).status == 400
    [line] = lines(file)
    head = r"\S+Z INFO miner\.access 127\.0\.0\.1 anybody POST /v1/chat/completions 400 model=\"evil\\\"\\n2026"
    assert re.match(head, line)
    assert "\x1b" not in line


async def test_prompts_when_asked(file):
    with server_log("json", "info", fd=file):
        async with serving(Parrot(config()), middleware=middleware(PromptLog())) as served:
            await ask(served, stream=True, messages=CHAT["messages"])
    [told] = objects(file)
    assert SECRET in told["prompt"]
    assert SECRET in told["reply"]


async def test_who_hung_up(file):
    service = Gated(config())
    with server_log("json", "info", fd=file):
        async with serving(service, middleware=middleware(AccessLog())) as served:
            asking = asyncio.create_task(ask(served))
            await until(lambda: service.running == 1)
            asking.cancel()
            await asyncio.wait([asking])
            await until(lambda: not served.gateway.requests)
    [told] = objects(file)
    assert told["cancelled"] is True
    assert told["status"] == 499


class Talkative(Parrot):
    """What a third party's backend may do."""

    async def generate(self, prompt, model=None, max_tokens=512, temperature=0.7, top_p=0.95):
        logging.getLogger("somebody.else").warning("in a request\nof %s", "two lines")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        raise ValueError(f"a bug\n2026-01-01T00:00:00.000Z INFO miner.access forged {prompt}")


async def complain(served):
    """A line from everything that can write one."""
    async with post(served, CHAT, headers={"x-request-id": "mine"}) as answer:
        assert answer.status == 500
    thread = threading.Thread(target=lambda: [][0], name="a thread")
    thread.start()
    await asyncio.to_thread(thread.join)
    asyncio.get_running_loop().call_soon(lambda: {}["in the loop"])
    await asyncio.sleep(0.01)
    cycle = Cycle()
    del cycle
    gc.collect()
    logging.getLogger("miner.gateway").debug("unheard")


class Cycle:
    def __init__(self):
        self.me = self

    def __del__(self):
        raise RuntimeError("while it is collected")


@pytest.mark.filterwarnings("default::DeprecationWarning")
async def test_all_lines_have_one_form_and_those_of_a_request_its_id(file):
    with server_log("json", "info", fd=file):
        async with serving(Talkative(config()), middleware=middleware(AccessLog())) as served:
            await complain(served)
    told = objects(file)
    assert all({"time", "level", "logger", "message"} <= set(one) for one in told)
    by_logger = {}
    for one in told:
        by_logger.setdefault(one["logger"], []).append(one)
    assert [one["message"] for one in by_logger["somebody.else"]] == ["in a request\nof two lines"]
    assert {one["id"] for name in ("somebody.else", "py.warnings", "miner.access") for one in by_logger[name]} == {
        "mine"
    }
    [failed] = by_logger["miner.gateway"]
    assert failed["id"] == "mine"
    assert failed["level"] == "error"
    assert "ValueError: a bug" in failed["exception"]
    assert SECRET not in failed["exception"]
    assert "IndexError" in by_logger["miner"][0]["exception"]
    assert "a thread" in by_logger["miner"][0]["message"]
    assert "while it is collected" in by_logger["miner"][1]["exception"]
    assert "KeyError: 'in the loop'" in by_logger["asyncio"][0]["exception"]


@pytest.mark.filterwarnings("default::DeprecationWarning")
async def test_text_has_one_form_too_and_nothing_can_be_forged(file):
    with server_log("text", "info", fd=file):
        async with serving(Talkative(config()), middleware=middleware(AccessLog())) as served:
            await complain(served)
    told = lines(file)
    line = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z (INFO|WARNING|ERROR|CRITICAL) [\w.]+ .+|  \| .*")
    assert [one for one in told if not line.fullmatch(one)] == []
    assert not any("forged" in one for one in told if not one.startswith("  | "))
    assert sum(" WARNING somebody.else in a request\\nof two lines id=mine" in one for one in told) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("level", "count"), [("info", 1), ("debug", 2)])
async def test_an_error_of_a_backend_is_logged_once_under_the_id_of_its_request(level, count, stream, file):
    service = VLLMService(config(vllm_api_base="http://127.0.0.1:9/v1", max_retries=1))
    with server_log("json", level, fd=file):
        async with (
            serving(service, middleware=middleware(AccessLog())) as served,
            post(served, {**CHAT, "stream": stream}, headers={"x-request-id": "mine"}) as answer,
        ):
            assert answer.status == 503
    told = [one for one in objects(file) if "cannot be reached" in one["message"]]
    assert [one["id"] for one in told] == ["mine"] * count


@pytest.mark.parametrize(("level", "count"), [("debug", 3), ("info", 2), ("warning", 1), ("error", 0)])
def test_the_level_is_that_of_all(level, count, file):
    root = logging.getLogger()
    before = root.handlers[:], root.level
    with server_log("json", level, fd=file):
        for name in ("miner.gateway", "aiohttp"):
            for one in ("debug", "info", "warning"):
                getattr(logging.getLogger(name), one)("said")
    assert len(lines(file)) == 2 * count
    assert (root.handlers, root.level) == before


async def test_a_full_disk_and_a_closed_pipe_break_no_request():
    full = os.open("/dev/full", os.O_WRONLY)
    reading, writing = os.pipe()
    os.close(reading)
    try:
        for fd in (full, writing):
            with server_log("json", "info", fd=fd):
                async with serving(Parrot(config()), middleware=middleware(AccessLog())) as served:
                    for _ in range(3):
                        assert (await ask(served)).status == 200
                        await asyncio.sleep(0.15)
    finally:
        os.close(full)
        os.close(writing)


async def test_a_blocked_log_reader_delays_no_request():
    reading, writing = os.pipe()
    os.set_blocking(writing, True)
    log = logging.getLogger("miner.gateway")
    try:
        with server_log("json", "info", fd=writing) as out:
            async with serving(Parrot(config()), middleware=middleware(AccessLog())) as served:
                log.warning("x" * (1 << 20))  # more than a pipe holds: the thread hangs in it
                await asyncio.sleep(0.3)
                for _ in range(5):
                    assert (await asyncio.wait_for(ask(served), 30)).status == 200
                for _ in range(9):
                    log.warning("x" * (1 << 20))
                assert out.lost >= 1  # memory is bounded: what does not fit is lost
            began = time.monotonic()
        assert time.monotonic() - began < 30  # the end does not wait for the reader
    finally:
        os.set_blocking(reading, False)
        for _ in range(600):
            try:
                os.read(reading, 1 << 20)
            except BlockingIOError:
                if not any(thread.name == "server log" for thread in threading.enumerate()):
                    break
            await asyncio.sleep(0.02)
        os.close(reading)
        os.close(writing)


async def test_lost_lines_are_reported():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.write(writing, b"x" * 65536)  # full
    log = logging.getLogger("miner.gateway")
    with server_log("json", "info", fd=writing) as out:
        log.warning("one")
        await until(lambda: out.lost == 1)
        assert len(os.read(reading, 65536)) == 65536
        log.warning("two")
    told = [json.loads(line) for line in os.read(reading, 65536).splitlines()]
    assert [one["message"] for one in told] == ["1 lines of the log were lost", "two"]
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(("level", "logged"), [("info", ["/readyz"]), ("debug", ["/livez", "/readyz", "/readyz"])])
async def test_successful_probes_are_logged_at_debug_only(file, level, logged):
    with server_log("json", level, fd=file):
        own = middleware(AccessLog(), api_keys=KEY)
        async with serving(Parrot(config()), middleware=own) as served, aiohttp.ClientSession() as session:
            for path, headers in [("/livez", {}), ("/readyz", {"x-api-key": KEY}), ("/readyz", {})]:
                async with session.get(f"{served.url}{path}", headers=headers) as answer:
                    await answer.read()
    assert [one["route"] for one in objects(file, "miner.access")] == logged


async def test_a_route_is_written_without_the_pattern_of_its_parts(file):
    with server_log("json", "info", fd=file):
        async with (
            serving(Parrot(config()), middleware=middleware(AccessLog())) as served,
            aiohttp.ClientSession() as session,
            session.get(f"{served.v1}/models/m") as answer,
        ):
            await answer.read()
    assert [one["route"] for one in objects(file, "miner.access")] == ["/v1/models/{model}"]
