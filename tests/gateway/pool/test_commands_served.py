"""A `miner serve` process whose models are on a server that it starts: what it says of that server."""

import asyncio
import json
import subprocess
import sys

import aiohttp
import pytest

from tests.gateway.server.test_run import WAIT, miner_serve
from tests.gateway.serving import post
from tests.paths import ROOT

pytestmark = pytest.mark.process

STUB = ROOT / "tests" / "core" / "engine" / "stub_command.py"
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}


def table(*options, kind="openai", more="", model=""):
    words = json.dumps([sys.executable, str(STUB), "--port", "${PORT}", "--name", "inner", *options])
    return f'[backends.gpu]\nkind = "{kind}"\ncommand = {words}\n{more}\n[models.outer]\nbackend = "gpu"\n{model}\n'


@pytest.fixture
def served(tmp_path):
    def start(text, **variables):
        (tmp_path / "miner.toml").write_text(text)
        quiet = {"LLM_BACKEND": "", "DEFAULT_MODEL": "", "MINER_SERVE_PRELOAD": "false", "HOME": str(tmp_path)}
        return miner_serve("--port", "0", tmp_path=tmp_path, **quiet | variables)

    return start


async def states(gateway):
    async with aiohttp.ClientSession() as session, session.get(f"{gateway.url}/admin/models") as answer:
        return (await answer.json())["models"]


async def scraped(gateway, sample):
    """The lines of /metrics once it has that sample: a scrape waits for no engine whose state comes late."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(WAIT):
        while True:
            async with session.get(f"{gateway.url}/metrics") as answer:
                lines = (await answer.text()).splitlines()
            if any(line.startswith(sample) for line in lines):
                return lines
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(("more", "slots"), [("", None), ("concurrency = 3", 3)])
async def test_slots_that_nobody_has_said_are_unknown(served, more, slots):
    async with served(table(more=more)) as gateway:
        await gateway.until_serving()
        async with post(gateway, CHAT) as answer:
            assert answer.status == 200
        (state,) = await states(gateway)
        assert (state["state"], state.get("slots")) == ("ready", slots)
        ps = [sys.executable, "-m", "miner", "ps", "--url", gateway.url]
        shown = await asyncio.to_thread(subprocess.run, ps, cwd=ROOT, capture_output=True, text=True, timeout=WAIT)
        assert "256" not in shown.stdout
        assert ("0/3" in shown.stdout) == (slots == 3)
        of_model = await scraped(gateway, "miner_engine_slots_busy{")
        assert [line.split()[-1] for line in of_model if line.startswith("miner_model_slots{")] == (
            [] if slots is None else ["3.0"]
        )


@pytest.mark.parametrize("kind", ["openai", "vllm", "llamacpp"])
async def test_a_name_that_its_server_does_not_list_is_warned_of(kind, served):
    async with served(table(kind=kind, model='name = "other"'), MINER_SERVE_PRELOAD="true") as gateway:
        await gateway.until_serving()
        said = await until_said(gateway, "but that server lists")
        assert "The model 'outer' is sent to [backends.gpu] as 'other', but that server lists: inner." in said
        assert "In miner.toml:7: correct models.outer.name." in said
        if kind == "openai":
            async with post(gateway, CHAT | {"model": "outer"}) as answer:
                error = (await answer.json())["error"]
            assert (answer.status, error["code"]) == (404, "model_not_found")
            words = "gpu has no model 'other'. The model 'outer' is sent to its server under that name."
            assert error["message"] == words
    assert gateway.said.count("but that server lists") == 1


@pytest.mark.parametrize("model", ["", 'name = "inner"', 'name = "INNER"'])
async def test_a_name_that_its_server_knows_is_not_warned_of(model, served):
    async with served(table("--access-log", model=model), MINER_SERVE_PRELOAD="true") as gateway:
        await gateway.until_serving()
        async with post(gateway, CHAT | {"model": "outer"}) as answer:
            assert answer.status == 200
        gateway.process.terminate()
        await gateway.ended()
    assert "that server lists" not in gateway.said


async def until_said(gateway, text):
    while text not in gateway.said:
        line = await asyncio.wait_for(gateway.process.stderr.readline(), WAIT)
        assert line, gateway.said
        gateway.said += line.decode()
    return gateway.said.splitlines()[-1]
