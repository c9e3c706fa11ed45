"""`/admin/logs` and `/admin/models/{model}/logs`: what is kept, in which bounds, and what goes on."""

from __future__ import annotations

import asyncio
import json
import logging
import sys

import aiohttp
import pytest

from miner.core.llms import get_backend
from miner.gateway.server.log_ring import MAX_LINES, LogRing
from tests.core.llms.pool.test_command import STUB
from tests.gateway.endpoints.test_admin import BOSS, USER, keys, told  # noqa: F401
from tests.gateway.serving import Parrot, config, post, serving

logger = logging.getLogger("miner.gateway")


async def get(served, path, key=None):
    headers = {"x-api-key": key} if key else {}
    async with aiohttp.ClientSession() as session, session.get(served.url + path, headers=headers) as answer:
        return answer.status, await answer.json()


async def events(response, count):
    found, kind = [], None
    async with asyncio.timeout(60):
        async for raw in response.content:
            name, _, value = raw.decode().rstrip("\n").partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                found.append((kind, json.loads(value)))
                if len(found) == count:
                    break
    return found


@pytest.fixture
def info(caplog):
    caplog.set_level(logging.INFO)


async def test_the_last_lines_by_level_and_number(info):
    async with serving(Parrot(config(default_model="m"))) as served:
        logger.info("one", extra={"fields": {"n": 1}})
        logger.warning("two")
        status, body = await get(served, "/admin/logs?lines=2")
        assert status == 200
        assert [entry["message"] for entry in body["entries"]] == ["one", "two"]
        assert body["entries"][0] | {"time": ""} == {
            "time": "", "level": "info", "logger": "miner.gateway", "message": "one", "n": 1,
        }  # fmt: skip
        _, body = await get(served, "/admin/logs?level=warning")
        assert [entry["message"] for entry in body["entries"]] == ["two"]
        last = body["last"]
        logger.info("three")
        _, body = await get(served, f"/admin/logs?after={last}&lines=1")
        assert [entry["message"] for entry in body["entries"]] != ["two"]
        assert (await get(served, "/admin/logs?lines=0"))[1]["entries"] == []


@pytest.mark.parametrize(
    ("query", "param"),
    [("level=loud", "level"), ("lines=-1", "lines"), ("lines=x", "lines"), ("follow=maybe", "follow")],
)
async def test_a_wrong_parameter_is_named(query, param):
    async with serving(Parrot(config(default_model="m"))) as served:
        status, body = await get(served, f"/admin/logs?{query}")
        assert (status, body["error"]["param"]) == (400, param)


async def test_only_admins(keys):  # noqa: F811
    async with serving(Parrot(config(default_model="m"))) as served:
        for path in ("/admin/logs", "/admin/models/m/logs", "/admin/node"):
            assert (await get(served, path))[0] == 401
            assert (await get(served, path, USER))[0] == 403
        assert (await get(served, "/admin/logs", BOSS))[0] == 200
        node = (await get(served, "/admin/node", BOSS))[1]
        assert node["version"]
        assert node["uptime"] >= 0
        status, body = await get(served, "/admin/models/m/logs", BOSS)
        assert (status, "no engines of its own" in body["error"]["message"]) == (400, True)


async def test_following_shows_what_comes_and_ends_with_the_server(info):
    async with aiohttp.ClientSession() as session, serving(Parrot(config(default_model="m"))) as served:
        logger.warning("before")
        response = await session.get(f"{served.url}/admin/logs?follow=true&lines=1")
        assert response.content_type == "text/event-stream"
        ((kind, entry),) = await events(response, 1)
        assert (kind, entry["message"]) == ("log", "before")
        logger.warning("after")
        ((_, entry),) = await events(response, 1)
        assert entry["message"] == "after"
        served.gateway.phase = "draining"
        async with asyncio.timeout(30):
            await response.content.read()
        response.close()


async def test_neither_prompts_nor_keys_are_kept(info):
    secret = "mk-" + "s3cret" * 8
    async with serving(Parrot(config(default_model="m")), serve_log_prompts=True) as served:
        logger.warning("refused %s", secret)
        logger.warning("sent", extra={"fields": {"header": f"Bearer {secret}"}})
        body = {"model": "m", "messages": [{"role": "user", "content": "a private question"}]}
        async with post(served, body) as answer:
            assert answer.status == 200
        _, kept = await get(served, "/admin/logs")
        text = json.dumps(kept)
        assert "refused mk-***" in text
        assert "s3cret" not in text
        assert "private" not in text
        assert any(entry["logger"] == "miner.access" for entry in kept["entries"])


def test_memory_is_bounded_and_warnings_outlive_a_flood():
    ring = LogRing()
    log = logging.Logger("flooded", logging.DEBUG)
    log.addHandler(ring)
    log.warning("the cause")
    for number in range(3 * MAX_LINES):
        log.info("request %d %s", number, "x" * 900)
    lines = ring.lines()
    assert json.loads(lines[0].data)["message"] == "the cause"
    assert sum(len(line.data) for line in lines) < 1.1 * 1024 * 1024
    assert len(lines) <= MAX_LINES + 1
    assert ring.last == 3 * MAX_LINES + 1
    assert [line.number for line in lines] == sorted(line.number for line in lines)
    assert not ring.is_complete(1)
    assert ring.is_complete(ring.last)
    log.error("long %s", "y" * 100_000)
    assert len(ring.lines(level=logging.ERROR)[0].data) < 6000


@pytest.mark.engine
async def test_the_lines_of_an_engine_before_while_and_after_it_runs(tmp_path):
    """llama.cpp's engines write errors only; a command writes what it likes."""
    loud = (
        "import os, sys; print('loading the weights', file=sys.stderr, flush=True); "
        f"os.execv({sys.executable!r}, [{sys.executable!r}, {str(STUB)!r}, *sys.argv[1:]])"
    )
    table = f"""
        [backends.gpu]
        kind = "openai"
        command = {json.dumps([sys.executable, "-c", loud, "--port", "${PORT}", "--name", "inner"])}
        [models.outer]
        backend = "gpu"
        """
    path = tmp_path / "miner.toml"
    path.write_text(table)
    async with serving(get_backend("pool", config(config=str(path)))) as served:
        assert (await get(served, "/admin/models/outer/logs"))[1] == {"model": "outer", "lines": []}
        assert (await told(served, "/admin/models/outer/load"))[0] == 200
        assert "loading the weights" in (await get(served, "/admin/models/outer/logs"))[1]["lines"]
        assert (await told(served, "/admin/models/outer/stop"))[0] == 200
        assert (await get(served, "/admin/models/outer/logs?lines=1"))[1]["lines"]
        async with aiohttp.ClientSession() as session:
            response = await session.get(f"{served.url}/admin/models/outer/logs?follow=true&lines=0")
            await told(served, "/admin/models/outer/load")
            (event,) = await events(response, 1)
            assert event == ("line", {"line": "loading the weights"})
            response.close()
        status, wrong = await get(served, "/admin/models/none/logs")
        assert (status, wrong["error"]["code"]) == (404, "model_not_found")
