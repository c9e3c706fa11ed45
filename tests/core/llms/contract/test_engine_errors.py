"""LlamaCppService over engines that are stopped, hang or keep on failing: typed errors soon, and a bounded close."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager

import pytest

from miner.config.config import MinerConfig
from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.errors import BackendError, BackendTimeoutError, EngineCrashedError, EngineStartError, MinerError
from tests.core.engine.children import PATIENCE, Clock, alive, eventually
from tests.core.engine.test_launchers import make_binary
from tests.paths import ROOT
from tests.servers.llama_runner import demo_model

pytestmark = pytest.mark.engine

SOON = 30.0
"""Seconds: far more than it takes, far less than the bounds that would end the wait otherwise."""
SILENT = ROOT / "tests" / "core" / "engine" / "silent_llama_server.py"


@asynccontextmanager
async def llamacpp(**settings):
    config = MinerConfig(
        _env_file=None,
        **{"model_path": str(demo_model()), "llamacpp_threads": 1, "llamacpp_parallel": 2, "llamacpp_ctx_size": 512,
           "llamacpp_start_timeout": 1000.0, "llamacpp_timeout": 1000.0, "max_retries": 0, **settings},
    )  # fmt: skip
    service = LlamaCppService(config)
    try:
        yield service
    finally:
        await asyncio.wait_for(service.aclose(), SOON)


def engine_of(service):
    return service._engines._host.started.status()[0]


async def pid_of(service):
    async with asyncio.timeout(PATIENCE):
        while not (pid := [engine.pid for engine in (await service.health()).engines if engine.pid]):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return pid[0]


def ask(service, tokens=1):
    return asyncio.create_task(service.generate("Hi", max_tokens=tokens))


def drained(stream):
    async def call(*args, **options):
        return [chunk async for chunk in stream(*args, **options)]

    return call


async def errors_of(tasks):
    async with asyncio.timeout(SOON):
        return await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def silent(tmp_path, monkeypatch):
    """The path of a binary that hangs at some point."""

    def at(point):
        monkeypatch.setenv("GGML_TEST_HANGS_AT", point)
        return str(make_binary(tmp_path / "silent-llama-server", SILENT))

    return at


async def test_stopped_while_it_starts(silent):
    async with llamacpp(llamacpp_server=silent("health")) as service:
        tasks = [ask(service) for _ in range(5)]
        os.kill(await pid_of(service), signal.SIGSTOP)
        errors = await errors_of(tasks)
    assert all(isinstance(error, EngineStartError) and "it was suspended" in error.message for error in errors), errors


@pytest.mark.parametrize("method", ["generate", "stream"])
async def test_stopped_while_it_serves(method):
    async with llamacpp() as service:
        await service.generate("Hi", max_tokens=1)
        pid = await pid_of(service)
        os.kill(pid, signal.SIGSTOP)
        async with asyncio.timeout(SOON):
            call = service.generate if method == "generate" else drained(service.stream)
            with pytest.raises(EngineCrashedError, match="it was suspended"):
                await call("Hi", max_tokens=400)
        async with asyncio.timeout(120):
            await service.generate("Hi", max_tokens=1)
        assert await pid_of(service) != pid


async def test_it_hangs_while_it_starts(silent):
    async with llamacpp(llamacpp_server=silent("health"), llamacpp_start_timeout=2.0) as service:
        errors = await errors_of([ask(service) for _ in range(5)])
        assert all(isinstance(error, EngineStartError) and "no progress" in error.message for error in errors)


@pytest.mark.parametrize("point", ["props", "slots"])
async def test_it_hangs_once_it_is_ready(silent, point):
    async with llamacpp(llamacpp_server=silent(point), llamacpp_timeout=1.0) as service:
        task = ask(service)
        pid = await pid_of(service)
        [error] = await errors_of([task])
        assert isinstance(error, BackendTimeoutError)
        assert "1 s" in error.message
        await asyncio.to_thread(eventually, lambda: not alive(pid), "it has been killed", SOON)
        async with asyncio.timeout(SOON):
            while not (reason := (await service.health()).engines[0].reason):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert "did not respond in time" in reason


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("point", ["health", "props", "slots"])
async def test_closing_does_not_wait_for_what_hangs(silent, point, stopped):
    async with llamacpp(llamacpp_server=silent(point)) as service:
        tasks = [ask(service) for _ in range(5)]
        pid = await pid_of(service)
        if point != "health":
            await asyncio.to_thread(eventually, lambda: engine_of(service).slots_busy, "it is ready")
        if stopped:
            os.kill(pid, signal.SIGSTOP)
        await asyncio.wait_for(service.aclose(), SOON)
        assert not alive(pid)
        errors = await errors_of(tasks)
        assert all(isinstance(error, BackendError) for error in errors), errors


async def test_a_model_that_keeps_on_dying_is_left_alone_for_a_while(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("miner.core.engine.circuit_breaker.monotonic", clock)
    async with llamacpp() as service:
        for _ in range(3):
            await service.generate("Hi", max_tokens=1)
            os.kill(await pid_of(service), signal.SIGKILL)
            await asyncio.to_thread(eventually, lambda: engine_of(service).pid is None, "it is dead")
        async with asyncio.timeout(SOON / 3):
            with pytest.raises(EngineStartError, match=r"failed 3 times .* attempt is in \d+ s") as caught:
                await service.generate("Hi", max_tokens=1)
        assert 0 < caught.value.retry_after <= 30
        health = await service.health()
        assert health.state == "failed"
        assert 0 < health.retry_after <= caught.value.retry_after
        assert "next attempt is in" in health.reason
        assert not await service.health_check()
        clock.ahead += caught.value.retry_after
        assert (await service.health()).state == "ready", "or nobody would send the request that tries it again"
        await service.generate("Hi", max_tokens=1)
        assert (await service.health()).state == "ready"


async def test_a_reset_tries_again_at_once():
    async with llamacpp() as service:
        for _ in range(3):
            await service.generate("Hi", max_tokens=1)
            os.kill(await pid_of(service), signal.SIGKILL)
            await asyncio.to_thread(eventually, lambda: engine_of(service).pid is None, "it is dead")
        health = await service.health()
        assert health.state == "failed"
        service.reset_model(health.models[0])
        assert (await service.health()).state == "ready"
        await service.generate("Hi", max_tokens=1)
        assert (await service.health()).state == "ready"


async def test_while_it_is_started_again_it_is_not_ready():
    async with llamacpp() as service:
        await service.generate("Hi", max_tokens=1)
        for _ in range(2):  # the second time there is a pause before the start
            os.kill(await pid_of(service), signal.SIGKILL)
            await asyncio.to_thread(eventually, lambda: engine_of(service).pid is None, "it is dead")
            task = ask(service)
            states = set()
            while not task.done():
                health = await service.health()
                states.add((health.state, bool(health.reason)))
                await asyncio.sleep(0.02)
            await task
        assert ("loading", True) in states
        assert (await service.health()).state == "ready"


@pytest.mark.parametrize("binary", [False, True])
async def test_sigterm_is_not_for_engines(binary, tmp_path):
    """It reaches them when somebody stops the whole service: what the gateway lets finish must finish."""
    settings = {"llamacpp_server": str(make_binary(tmp_path / "llama-server"))} if binary else {}
    async with llamacpp(**settings) as service:
        pid, ends = None, []
        async with asyncio.timeout(PATIENCE):
            async for chunk in service.stream("Hi", max_tokens=60, logit_bias={"2": -100}):
                if chunk.content and pid is None:
                    pid = await pid_of(service)
                    os.killpg(pid, signal.SIGTERM)
                    os.killpg(pid, signal.SIGHUP)
                ends += [chunk.finish_reason] if chunk.finish_reason else []
        assert ends == ["length"]
        await service.generate("Hi", max_tokens=1)
        assert await pid_of(service) == pid
        began = asyncio.get_running_loop().time()
        await service.aclose()
        assert asyncio.get_running_loop().time() - began < SOON
    await asyncio.to_thread(eventually, lambda: not alive(pid), "a close ends it")


LINGERS = """
import http.server, os, signal, sys, threading
if "--help" in sys.argv:
    sys.exit("usage: --model FNAME")
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"total_slots": 2, "default_generation_settings": {"n_ctx": 512}, "status": "ok"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait()
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
def end(*_):
    if HOW == "exits":
        os._exit(0)
    server.socket.close()
    server.shutdown()
signal.signal(signal.SIGTERM, end)
while True:
    signal.pause()
"""


@pytest.mark.parametrize("how", ["exits", "stops listening"])
async def test_one_that_a_signal_ends_all_the_same_is_dead_at_once(how, tmp_path):
    (tmp_path / "server.py").write_text(f"HOW = {how!r}\n{LINGERS}")
    binary = make_binary(tmp_path / "llama-server", tmp_path / "server.py")
    async with llamacpp(llamacpp_server=str(binary)) as service:
        for start in range(2):  # the next request starts another one
            (error,) = await errors_of([ask(service)])
            assert isinstance(error, EngineCrashedError)
            assert "terminated by a signal" in error.message
            assert engine_of(service).restarts == start


async def test_waits_are_bounded_too_when_everything_hangs_at_once(silent):
    """Requests, a close and a second close at the same time."""
    async with llamacpp(llamacpp_server=silent("slots"), llamacpp_timeout=3.0) as service:
        tasks = [ask(service) for _ in range(8)]
        await pid_of(service)
        errors = await errors_of([*tasks, asyncio.create_task(service.aclose()), asyncio.create_task(service.aclose())])
    assert [error for error in errors if error is not None and not isinstance(error, MinerError)] == []


@pytest.fixture
def dying(tmp_path):
    """The path of a binary that never starts."""
    path = tmp_path / "dying-llama-server"
    path.write_text('#!/bin/sh\n[ "$1" = --help ] && { echo --model; exit; }\necho error: no moon >&2\nexit 7\n')
    path.chmod(0o755)
    return str(path)


async def fails(service, **options):
    with pytest.raises(EngineStartError) as caught:
        await service.generate("Hi", max_tokens=1, **options)
    return caught.value


async def test_a_model_that_cannot_start_is_tried_again_in_time(dying, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("miner.core.engine.circuit_breaker.monotonic", clock)
    async with llamacpp(llamacpp_server=dying) as service:
        for _ in range(3):
            assert "no moon" in (await fails(service)).message
        for failures, cooldown in ((3, 30), (4, 60), (5, 120)):
            refused = await fails(service)
            assert f"failed {failures} times" in refused.message
            assert 0 < refused.retry_after <= cooldown
            health = await service.health()
            assert (health.state, bool(health.retry_after)) == ("failed", True)
            clock.ahead += refused.retry_after
            tried = await fails(service)
            assert "exit status 7" in tried.message
            assert "tried again" not in tried.message


async def test_a_node_with_several_models_is_ready_while_one_of_them_may_work(dying, tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    for name in ("one", "two"):
        (models / f"{name}.gguf").symlink_to(demo_model())
    async with llamacpp(llamacpp_server=dying, model_path=None, models_dir=models) as service:
        for name in ("one", "two"):
            assert (await service.health()).state == "ready"
            for _ in range(3):
                await fails(service, model=name)
        health = await service.health()
        assert health.state == "failed"
        assert sorted(health.models) == ["one", "two"]
        assert health.retry_after
        service.reset_model("two")
        assert (await service.health()).state == "ready"
