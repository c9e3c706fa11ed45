"""A load of a real node that is stopped: whoever waits for it is told, and nothing loads the model again by itself."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager

import aiohttp
import pytest

from miner.gateway.auth.keys import KeyFile, write_keys
from tests.core.engine.test_launchers import make_binary
from tests.core.llms.contract.test_engine_errors import SILENT
from tests.core.llms.pool.files import until
from tests.core.llms.pool.test_command import STUB
from tests.gateway.pool.tables import entry, header
from tests.gateway.server.test_run import WAIT, miner_serve
from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.process

CHAT = {"model": "slow", "messages": [{"role": "user", "content": "Hi"}]}
STOPPED = (503, "engine_stopped", "The engine of 'slow' was stopped by an operator before this request had its turn.")

FAR = '[backends.far]\nkind = "vllm"\nurl = "http://127.0.0.1:9/v1"\n[models.m]\nbackend = "far"\n'


def table(load, *, preload=False, models=("slow",)):
    """`slow` is a command that takes `load` seconds until it is ready; each start of it is a line of `starts`."""
    note = "import os, sys; open('starts', 'a').write('x\\n'); os.execv(sys.argv[1], sys.argv[1:])"
    stub = [sys.executable, str(STUB), "--port", "${PORT}", "--load", str(load), "--name", "inner"]
    command = [sys.executable, "-c", note, *stub]
    text = f'[backends.local]\nkind = "openai"\ndirectory = "."\ncommand = {json.dumps(command)}\n'
    for name in models:
        text += f'[models.{name}]\nbackend = "local"\npreload = {str(preload).lower()}\n'
    return text


def llama_table(directory):
    """`slow` is a model of llama.cpp whose engine never becomes ready; each start of it is a line of `starts`."""
    write_tiny_model(directory / "slow.gguf")
    silent, binary = make_binary(directory / "silent", SILENT), directory / "llama-server"
    count = f'case "$*" in *--help*|*--version*) ;; *) echo x >> {directory}/starts ;; esac'
    binary.write_text(f'#!/bin/sh\n{count}\nexec {silent} "$@"\n')
    binary.chmod(0o755)
    text = f'[backends.local]\nkind = "llamacpp"\n[models.slow]\nbackend = "local"\nfile = "{directory}/slow.gguf"\n'
    return text, {"LLAMACPP_SERVER": str(binary), "GGML_TEST_HANGS_AT": "health"}


class Node:
    """A node, and what a test asks of it."""

    def __init__(self, server, session, directory):
        self.server = server
        self.session = session
        self.directory = directory

    async def post(self, path, body=None, **headers):
        """Status and JSON of the response."""
        async with self.session.post(self.server.url + path, json=body, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None)

    async def state(self, **headers):
        async with self.session.get(f"{self.server.url}/admin/models", headers=headers) as answer:
            models = (await answer.json())["models"]
        return {"state": "unloaded", "queued": 0} | next(model for model in models if model["name"] == "slow")

    async def until_loading(self, queued=1, before=0, **headers):
        async def check():
            state = await self.state(**headers)
            return state["state"] == "loading" and state["queued"] == queued and self.starts > before

        await until(check, WAIT)

    async def until_unloaded(self):
        async def check():
            return (await self.state())["state"] == "unloaded"

        await until(check, WAIT)

    @property
    def starts(self):
        file = self.directory / "starts"
        return len(file.read_text().splitlines()) if file.exists() else 0

    async def miner(self, *arguments):
        """Run the command line beside it; return standard output."""
        command = [sys.executable, "-m", "miner", *arguments, "--url", self.server.url]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        out, _ = await asyncio.wait_for(process.communicate(), WAIT)
        return out.decode()


@asynccontextmanager
async def node(tmp_path, text, **environment):
    path = tmp_path / "miner.toml"
    path.write_text(text)
    settings = {"MINER_CONFIG": str(path), "LLM_BACKEND": "pool", "MINER_SERVE_PRELOAD": "false", **environment}
    timeout = aiohttp.ClientTimeout(total=WAIT)
    async with (
        miner_serve("--port", "0", tmp_path=tmp_path, **settings) as server,
        aiohttp.ClientSession(timeout=timeout) as session,
    ):
        await server.until_serving()
        yield Node(server, session, tmp_path)


async def stop(node):
    assert await node.post("/admin/models/slow/stop") == (200, {"model": "slow", "stopped": True})


async def unload(node):
    assert await node.post("/admin/models/slow/unload") == (200, {"model": "slow", "unloaded": True})


async def ollama(node):
    status, body = await node.post("/api/generate", {"model": "slow", "keep_alive": 0})
    assert (status, body.get("done_reason")) == (200, "unload"), body


async def command_stop(node):
    assert await node.miner("stop", "slow") == "slow is stopped\n"


async def command_unload(node):
    assert await node.miner("unload", "slow") == "slow is unloaded\n"


@pytest.mark.parametrize("way", [stop, unload, ollama, command_stop, command_unload])
async def test_what_is_stopped_while_it_loads_stays_so_until_the_next_request(way, tmp_path):
    text, settings = llama_table(tmp_path)
    async with node(tmp_path, text, **settings) as served:
        waiting = [
            asyncio.create_task(served.post("/v1/chat/completions", CHAT)),
            asyncio.create_task(served.post("/v1/chat/completions", {**CHAT, "stream": True})),
            asyncio.create_task(served.post("/admin/models/slow/load")),
        ]
        await served.until_loading(3)
        await way(served)
        for status, body in await asyncio.gather(*waiting):
            error = body["error"]
            assert (status, error["code"], error["message"][: len(STOPPED[2])]) == STOPPED
            assert "Send the request again" in error["message"]
        await served.until_unloaded()
        await asyncio.sleep(1.0)
        assert ((await served.state())["state"], served.starts) == ("unloaded", 1)
        again = asyncio.create_task(served.post("/v1/chat/completions", CHAT))
        await served.until_loading(before=1)
        await way(served)
        assert (await again)[0] == 503


async def test_no_client_sends_again_by_itself_what_an_operator_has_stopped(tmp_path):
    async with node(tmp_path, table(30)) as served:
        command = [sys.executable, "-m", "miner", "generate", "Hi", "-m", "slow", "--url", served.server.url]
        ours = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        foreign = asyncio.create_task(served.session.post(f"{served.server.url}/v1/chat/completions", json=CHAT))
        await served.until_loading(2)
        await stop(served)
        _, told = await asyncio.wait_for(ours.communicate(), WAIT)
        async with await foreign as answer:
            assert answer.status == 503
            assert answer.headers["X-Should-Retry"] == "false"  # as the clients of OpenAI and Anthropic read it
            assert "Retry-After" not in answer.headers
        assert ours.returncode == 1
        assert "ended the request (HTTP 503): The engine of 'local' was stopped by an operator" in told.decode()
        assert ((await served.state())["state"], served.starts) == ("unloaded", 1)


async def test_a_load_at_start_that_is_stopped_is_not_tried_again(tmp_path):
    async with node(tmp_path, table(30, preload=True), MINER_SERVE_PRELOAD="true") as served:
        await served.until_loading()
        await stop(served)
        await served.until_unloaded()
        await asyncio.sleep(2.0)
        assert ((await served.state())["state"], served.starts) == ("unloaded", 1)
        served.server.process.terminate()
        assert await served.server.ended() == 0
    lines = [line for line in served.server.said.splitlines() if "stopped before it was loaded" in line]
    assert len(lines) == 1
    assert "The model 'slow'" in lines[0]


async def test_who_is_no_operator_cannot_end_the_load_of_others(tmp_path):
    path = tmp_path / "keys.json"
    write_keys(path, KeyFile(keys=[entry("user"), entry("root", admin=True)]))
    text, settings = llama_table(tmp_path)
    async with node(tmp_path, text, MINER_API_KEYS_FILE=str(path), **settings) as served:
        user, root = header("user"), header("root")
        waiting = asyncio.create_task(served.post("/v1/chat/completions", CHAT, **user))
        await served.until_loading(**root)
        status, body = await served.post("/api/generate", {"model": "slow", "keep_alive": 0}, **user)
        assert (status, body["error"]) == (409, "Other requests wait until 'slow' is loaded. Unload it once it is.")
        assert not waiting.done()
        status, body = await served.post("/api/generate", {"model": "slow", "keep_alive": 0}, **root)
        assert (status, body.get("done_reason")) == (200, "unload"), body
        status, body = await waiting
        assert (status, body["error"]["code"]) == STOPPED[:2]


async def test_a_model_that_leaves_the_file_serves_those_who_wait_and_is_not_loaded_again(tmp_path):
    async with node(tmp_path, table(3, models=("slow", "other"))) as served:
        waiting = asyncio.create_task(served.post("/v1/chat/completions", CHAT))
        await served.until_loading()
        (tmp_path / "miner.toml").write_text(FAR)
        assert (await served.post("/admin/config/reload"))[0] == 200
        assert (await waiting)[0] == 200
        await asyncio.sleep(1.0)
        assert served.starts == 1
        async with served.session.get(f"{served.server.url}/admin/engines") as answer:
            engines = (await answer.json()).get("engines", [])
        assert [each for each in engines if each["state"] != "stopped"] == []
