"""A real node that is told to stop while a model is loaded: the load ends at once, generations have their time."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tests.gateway.server.test_run import WAIT
from tests.gateway.server.test_stopped_loads import CHAT, llama_table, node, table

pytestmark = pytest.mark.process


@pytest.mark.parametrize(
    ("path", "body"), [("/admin/models/slow/load", None), ("/api/generate", {"model": "slow", "keep_alive": "5m"})]
)
async def test_a_load_does_not_hold_the_stop(path, body, tmp_path):
    text, settings = llama_table(tmp_path)
    async with node(tmp_path, text, MINER_SERVE_GRACE="600", **settings) as served:
        load = asyncio.create_task(served.post(path, body))
        await served.until_loading()
        served.server.process.send_signal(signal.SIGINT)
        status, answer = await load
        assert await served.server.ended() == 0, "one Ctrl-C was enough"
    error = answer["error"]
    assert status == 503
    assert "The server is shutting down." in (error if isinstance(error, str) else error["message"])
    assert "Shutting down: 1 request has" not in served.server.said, "it waits for none"


async def test_a_generation_beside_it_is_finished(tmp_path):
    text, settings = llama_table(tmp_path)
    command = table(0).replace("[backends.local]", "[backends.quick]").replace("[models.slow]", "[models.quick]")
    text += command.replace('backend = "local"', 'backend = "quick"')
    async with node(tmp_path, text, MINER_SERVE_GRACE="600", **settings) as served:
        assert (await served.post("/admin/models/quick/load"))[0] == 200
        load = asyncio.create_task(served.post("/admin/models/slow/load"))
        await served.until_loading()
        stream = {**CHAT, "model": "quick", "stream": True, "max_tokens": 100}
        async with served.session.post(f"{served.server.url}/v1/chat/completions", json=stream) as answer:
            await answer.content.readline()
            served.server.process.send_signal(signal.SIGINT)
            assert (await asyncio.wait_for(load, WAIT))[0] == 503
            words = (await answer.text()).count('"content":"inner ')
        assert words >= 99
        assert await served.server.ended() == 0
    assert "Shutting down: 1 request has 600 s to finish" in served.server.said
