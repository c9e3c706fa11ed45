"""Real engines under a file that changes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import aiohttp
import pytest

from tests.gateway.pool.hammer import hammer
from tests.gateway.pool.tables import replace, serving_table, until
from tests.servers.ports import closed_port
from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.engine

ONE = '[defaults]\nthreads = 1\nslots = 1\n[models.one]\nfile = "one.gguf"\ncontext = 512\n'


async def test_no_request_is_dropped_while_the_file_is_edited(tmp_path):
    outcomes = await hammer(tmp_path, 100, 6)
    assert outcomes.keys() == {"served", "engines"}, outcomes
    assert outcomes["served"] >= 100
    assert outcomes["engines"] <= 4


async def test_an_engine_whose_options_did_not_change_stays(tmp_path):
    write_tiny_model(tmp_path / "one.gguf")
    async with serving_table(tmp_path, ONE) as client:
        assert (await client.chat("one", max_tokens=2))[0] == 200
        [before] = (await client.get("/admin/engines"))["engines"]
        service = client.served.gateway.service
        for text in (ONE + "timeout = 50.0\n", ONE + 'aliases = ["x"]\nsampling = { temperature = 0 }\n'):
            client.path.write_text(text)
            assert await service.reload()
            await asyncio.sleep(0.3)
            assert (await client.chat("one", max_tokens=2))[0] == 200
            [engine] = (await client.get("/admin/engines"))["engines"]
            assert engine["pid"] == before["pid"]


async def test_the_engines_of_old_options_do_not_pile_up(tmp_path):
    write_tiny_model(tmp_path / "one.gguf")
    async with serving_table(tmp_path, ONE) as client:
        service = client.served.gateway.service
        for context in range(512, 512 + 256 * 6, 256):
            client.path.write_text(ONE.replace("512", str(context)))
            await service.reload()
            assert (await client.chat("one", max_tokens=2))[0] == 200

        async def only_one():
            return len(service._members.host.started.loaded()) == 1 and not any(
                not holder.closed for holder in service._members._retired
            )

        await client.until(only_one)


async def test_a_stream_goes_on_while_its_model_changes_and_goes(tmp_path):
    write_tiny_model(tmp_path / "one.gguf")
    async with serving_table(tmp_path, ONE) as client:
        body = {"model": "one", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 400}
        async with client.session.post(f"{client.served.v1}/chat/completions", json=body) as answer:
            await answer.content.readline()
            for text in (ONE.replace("512", "768"), ONE.replace("models.one", "models.other")):
                client.path.write_text(text)
                await client.served.gateway.service.reload()
            assert (await client.chat("one"))[0] == 404
            assert (await client.chat("other", max_tokens=2))[0] == 200
            rest = await answer.text()
        assert rest.rstrip().endswith("data: [DONE]")
        assert '"error"' not in rest


async def test_models_are_loaded_at_start_those_with_a_pin_first(tmp_path):
    for name in ("one", "two"):
        write_tiny_model(tmp_path / f"{name}.gguf")
    text = ONE + 'preload = true\n[models.two]\nfile = "two.gguf"\ncontext = 512\npreload = true\npin = true\n'
    text += '[models.three]\nfile = "one.gguf"\ncontext = 768\n[limits]\nmax_loaded = 2\n'
    async with serving_table(tmp_path, text, preload=True) as client:

        async def ready():
            return (await client.get("/readyz"))["status"] == "ready" and len(
                client.served.gateway.service._members.host.started.loaded()
            ) == 2

        await client.until(ready)
        assert client.served.gateway.service.preloaded == ["two", "one"]
        assert (await client.chat("three", max_tokens=2))[0] == 200
        loaded = {spec.alias for spec in client.served.gateway.service._members.host.started.loaded()}
        assert loaded == {"two", "three"}
        client.path.write_text(text + '[models.four]\nfile = "two.gguf"\ncontext = 768\npreload = true\n')

        async def four():
            return "four" in {spec.alias for spec in client.served.gateway.service._members.host.started.loaded()}

        await client.until(four)


@pytest.fixture
def serving(tmp_path):
    """`miner serve` over the file, and its port; its log is read at the end."""
    write_tiny_model(tmp_path / "one.gguf")
    path, port = tmp_path / "miner.toml", closed_port()
    path.write_text(ONE)
    environment = {**os.environ, "MINER_CONFIG": str(path), "MINER_SERVE_PRELOAD": "false"}
    command = [sys.executable, "-m", "miner", "serve", "--port", str(port)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        yield process, path, port
        if process.poll() is None:
            process.kill()


async def test_a_hangup_signal_reads_the_file_at_once(serving):
    process, path, port = serving
    async with aiohttp.ClientSession() as session:

        async def ids():
            try:
                async with session.get(f"http://127.0.0.1:{port}/v1/models") as answer:
                    return {model["id"] for model in (await answer.json())["data"]}
            except aiohttp.ClientError:
                return set()

        async def are(names):
            return await ids() == names

        await until(lambda: are({"one"}), 60)
        replace(path, ONE + '[models.new]\nfile = "one.gguf"\n')
        process.send_signal(signal.SIGHUP)
        await until(lambda: are({"one", "new"}))
    process.terminate()
    _, log = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 0
    assert "miner.toml was read again: added: new." in log
