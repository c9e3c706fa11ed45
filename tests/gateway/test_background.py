"""Background tasks that die are started again and shown; keys that were revoked do not stay valid meanwhile."""

from __future__ import annotations

import asyncio
import os

import aiohttp
import pytest

from miner.core.llms.llm_vllm import VLLMService
from miner.core.wire import LLMChunk
from miner.gateway import background
from miner.gateway.auth import key_store
from miner.gateway.auth.key_store import KeyStore
from miner.gateway.auth.keys import KeyFile, key_path, write_keys
from miner.gateway.background import Background
from miner.gateway.server.log import server_log
from miner.gateway.state import Gateway
from miner.gateway.streaming import EventStream
from tests.gateway.middleware.test_auth import entry, header, status_of, until
from tests.gateway.serving import Parrot, config, post, serving
from tests.gateway.test_generation import CHAT, Scripted, never
from tests.servers.openai_stub import StubServer

WAIT = 60
KEY = "0123456789abcdef"


async def until_true(wanted):
    async with asyncio.timeout(WAIT):
        while not wanted():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(background, "_MIN_PAUSE", 0.05)
    monkeypatch.setattr(background, "_STEADY_SECONDS", 0.2)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "end", [ValueError("no"), asyncio.CancelledError(), SystemExit(1), StopAsyncIteration(), None], ids=repr
)
async def test_a_failed_task_is_logged_restarted_and_shown_until_it_runs(end, caplog):
    tasks, runs = Background(), []

    async def work():
        runs.append(1)
        if len(runs) > 2:
            await asyncio.sleep(3600)
        if end is not None:
            raise end

    tasks.start("thing", work)
    await until_true(lambda: tasks.problems)
    assert type(end or RuntimeError()).__name__ in tasks.problems["thing"]
    await until_true(lambda: not tasks.problems)
    assert len(runs) == 3
    await tasks.stop()
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == ["The task 'thing' has failed"] * 2
    assert all(record.exc_info for record in caplog.records)


@pytest.mark.usefixtures("quick")
async def test_one_that_may_end_is_not_started_again(caplog):
    tasks, runs = Background(), []

    async def work():
        runs.append(1)

    tasks.start("thing", work, ends=True)
    await until_true(lambda: runs)
    await asyncio.sleep(0.3)
    assert len(runs) == 1
    assert not tasks.problems
    assert not caplog.records
    await tasks.stop()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("task", ["heartbeat", "watcher", "preload"])
async def test_not_ready_while_a_task_of_the_server_is_down(task, monkeypatch, caplog):
    broken = True

    def breaking(real):
        async def run(*arguments):
            if broken:
                raise LookupError("the reason")
            await real(*arguments)

        return run

    async def play():
        if broken:
            raise LookupError("the reason")
        yield [LLMChunk(content="x", finish_reason="stop")]

    service = Scripted(play)
    if task == "heartbeat":
        monkeypatch.setattr(Gateway, "send_heartbeats", breaking(Gateway.send_heartbeats))
    elif task == "watcher":
        monkeypatch.setattr(KeyStore, "watch", breaking(KeyStore.watch))

    async def reason(session, served):
        async with session.get(f"{served.url}/readyz", headers={"x-api-key": KEY}) as answer:
            return answer.status, (await answer.json()).get("reason")

    async with (
        serving(service, serve_preload=task == "preload", api_keys=KEY) as served,
        aiohttp.ClientSession() as session,
    ):
        async with asyncio.timeout(WAIT):
            while "has failed" not in str((await reason(session, served))[1]):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert (await reason(session, served))[0] == 503
        broken = False
        async with asyncio.timeout(WAIT):
            while (await reason(session, served))[0] != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    assert "LookupError: the reason" in caplog.text


async def test_a_revoked_key_ends_without_a_file_watch(monkeypatch):
    async def dead(_):
        await asyncio.sleep(3600)

    monkeypatch.setattr(KeyStore, "watch", dead)
    monkeypatch.setattr(key_store, "_FRESH_SECONDS", 0.3)
    write_keys(key_path(None), KeyFile(keys=[entry("a"), entry("b")]))
    async with serving(Parrot(config())) as served, aiohttp.ClientSession() as session:
        assert await status_of(session, served, "/v1/models", **header("a")) == 200
        write_keys(key_path(None), KeyFile(keys=[entry("b")]))
        await until(session, served, 401, **header("a"))
        assert await status_of(session, served, "/v1/models", **header("b")) == 200


@pytest.mark.parametrize("how", ["nonsense", "directory", "hangs"])
async def test_keys_of_a_file_that_cannot_be_read_count_for_a_while_only(how, monkeypatch, caplog):
    monkeypatch.setattr(key_store, "_TRUST_SECONDS", 0.6)
    monkeypatch.setattr(key_store, "_READ_SECONDS", 0.2)
    path = key_path(None)
    write_keys(path, KeyFile(keys=[entry("a", admin=True)]))
    async with serving(Parrot(config()), api_keys=KEY) as served, aiohttp.ClientSession() as session:
        assert await status_of(session, served, "/v1/models", **header("a")) == 200
        release = asyncio.Event()
        loop, real = asyncio.get_running_loop(), key_store._version
        if how == "nonsense":
            path.write_text("{")
        elif how == "directory":
            path.unlink()
            path.mkdir()
        else:

            def hanging(where):
                asyncio.run_coroutine_threadsafe(asyncio.wait_for(release.wait(), WAIT), loop).result()
                return real(where)

            monkeypatch.setattr(key_store, "_version", hanging)
        await until(session, served, 503, **header("a"))
        assert await status_of(session, served, "/v1/models", x_api_key=KEY) == 200  # not of the file
        assert await status_of(session, served, "/v1/models", **header("b")) == 401
        if how != "hangs":
            async with session.get(f"{served.url}/readyz", headers={"x-api-key": KEY}) as answer:
                assert answer.status == 503
                assert "keys file" in (await answer.json())["reason"]
        release.set()
        if how == "directory":
            path.rmdir()
        if how != "hangs":
            write_keys(path, KeyFile(keys=[entry("b")]))
            await until(session, served, 200, **header("b"))
            await until(session, served, 401, **header("a"))
        else:
            await until(session, served, 200, **header("a"))
    assert how == "hangs" or sum("Its keys stay valid" in record.getMessage() for record in caplog.records) == 1


async def test_one_broken_stream_does_not_end_the_heartbeat_of_the_others(monkeypatch, caplog):
    real, broken = EventStream.send_heartbeat, []

    async def beat(self):
        if not broken:
            broken.append(self)
        if self in broken:
            raise ValueError("no")
        await real(self)

    monkeypatch.setattr(EventStream, "send_heartbeat", beat)
    async with serving(Scripted(never), serve_heartbeat=0.1) as served:
        body = {**CHAT, "stream": True}
        first = asyncio.create_task(_first_bytes(served, body))
        await until_true(lambda: broken)
        async with post(served, body) as answer:
            assert await asyncio.wait_for(answer.content.readany(), WAIT) == b": keep-alive\n\n"
            assert await asyncio.wait_for(answer.content.readany(), WAIT) == b": keep-alive\n\n"
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    assert sum("heartbeat failed" in record.getMessage() for record in caplog.records) == 1


async def _first_bytes(served, body):
    async with post(served, body) as answer:
        return await answer.content.readany()


async def test_nothing_blocks_the_event_loop(no_blocking_calls, tmp_path):
    path = key_path(None)
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    await asyncio.to_thread(write_keys, path, KeyFile(keys=[entry("a", admin=True)]))
    log = server_log("text", "debug", fd=fd)
    await asyncio.to_thread(log.__enter__)  # before the loop and after it, where the server runs
    try:
        await _use_everything(path)
    finally:
        await asyncio.to_thread(log.__exit__, None, None, None)
    os.close(fd)
    assert "API keys have changed" in (tmp_path / "log").read_text()


async def _use_everything(path):
    async with StubServer(models=["m"]) as engine:
        service = VLLMService(config(default_model="m", vllm_api_base=engine.v1))
        async with serving(service, serve_preload=True) as served, aiohttp.ClientSession() as session:
            for stream in (False, True):
                async with post(served, {**CHAT, "stream": stream}, headers=header("a")) as answer:
                    assert answer.status == 200
                    await answer.read()
            for where in ("/v1/models", "/api/tags", "/readyz", "/livez", "/metrics", "/openapi.json", "/docs", "/no"):
                assert await status_of(session, served, where, **header("a")) in (200, 404), where
            await asyncio.to_thread(write_keys, path, KeyFile(keys=[entry("b", admin=True)]))
            await until(session, served, 401, **header("a"))
            assert await status_of(session, served, "/v1/models", **header("b")) == 200
