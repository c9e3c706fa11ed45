"""A load that fails is one line in the log of a real node, whoever waits: the model, the reason, what to do."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.core.llms.pool.files import until
from tests.gateway.server.test_run import WAIT
from tests.gateway.server.test_stopped_loads import llama_table, node

pytestmark = pytest.mark.process

WHY, WAY_OUT = "it made no progress for 2 s", "See the log lines; raise "


async def lines_of(served):
    served.server.process.terminate()
    assert await served.server.ended() == 0
    return [line for line in served.server.said.splitlines() if WHY in line]


async def failed(served):
    async def check():
        return (await served.state()).get("reason")

    assert WHY in await until(check, WAIT)


def failing(tmp_path, **settings):
    text, known = llama_table(tmp_path)
    return node(tmp_path, text, LLAMACPP_START_TIMEOUT="2", MINER_MAX_RETRIES="0", **known, **settings)


@pytest.mark.parametrize("path", ["/admin/models/slow/load", "/v1/chat/completions"])
async def test_whose_caller_has_left(path, tmp_path):
    body = {"model": "slow", "messages": [{"role": "user", "content": "Hi"}]} if "chat" in path else None
    async with failing(tmp_path) as served:
        timeout = aiohttp.ClientTimeout(total=0.5)
        with pytest.raises(asyncio.TimeoutError):
            await served.session.post(served.server.url + path, json=body, timeout=timeout)
        await failed(served)
        (line,) = await lines_of(served)
    assert " ERROR miner.engine slow could not be loaded, and nobody waits for it: " in line
    assert WAY_OUT in line


async def test_for_which_a_caller_waits(tmp_path):
    async with failing(tmp_path) as served:
        status, body = await served.post("/admin/models/slow/load")
        assert (status, WHY in body["error"]["message"]) == (503, True)
        (line,) = await lines_of(served)
    assert " WARNING miner.gateway Request " in line
    assert "slow" in line
    assert WAY_OUT in line


async def test_of_a_start(tmp_path):
    async with failing(tmp_path, MINER_SERVE_PRELOAD="true") as served:
        await failed(served)
        (line,) = await lines_of(served)
    assert " WARNING miner.gateway The model 'slow' could not be loaded: " in line or "The default model" in line
    assert WAY_OUT in line
