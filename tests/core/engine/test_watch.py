"""Engines that are suspended (SIGSTOP) or hang, in each phase: detected soon and killed, and nobody waits long.

Whoever calls here waits without a bound that could help: start timeouts and grace times are longer than
the tests' patience.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from miner.core.engine.launchers import find_launcher
from miner.core.engine.process import EngineProcess
from miner.core.engine.procstat import LOOK_SECONDS, Usage
from miner.core.engine.watch import StallDetector, SuspendDetector
from miner.errors import EngineStartError
from tests.blocking import blocking_calls_fail
from tests.core.engine.children import PATIENCE, BadLauncher, alive, completion, demo_spec, eventually
from tests.core.engine.test_launchers import end, make_binary, start_parent

pytestmark = pytest.mark.engine

SOON = 30.0
"""Seconds: far more than it takes, far less than any bound that would end the wait otherwise."""
LONG = 10 * PATIENCE


@pytest.fixture
async def engines():
    made = []

    def make(launcher, spec=None, **options):
        if isinstance(launcher, str):
            launcher = BadLauncher(launcher)
        options = {"start_timeout": LONG, "stop_grace": LONG, "backoff": (0.05, 0.2), **options}
        made.append(EngineProcess(spec or demo_spec(), launcher, **options))
        return made[-1]

    yield make
    for engine in made:
        engine.kill()
        await asyncio.wait_for(engine.stop(), SOON)
        assert engine.pid is None


def family(pid):
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def stop(pid, which):
    """SIGSTOP to the child, to all that it has started (the watcher, the server), or to the whole group."""
    if which == "group":
        os.killpg(pid, signal.SIGSTOP)
    for one in family(pid)[:1] if which == "child" else family(pid)[1:]:
        one.suspend()


async def has_child(engine):
    await asyncio.to_thread(eventually, lambda: engine.pid, "there is a child")
    return engine.pid


async def test_suspended_while_it_starts(engines):
    engine = engines("hangs")
    waiting = [asyncio.create_task(engine.ensure_ready()) for _ in range(3)]
    pid = await has_child(engine)
    os.kill(pid, signal.SIGSTOP)
    async with asyncio.timeout(SOON):
        errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(error, EngineStartError) for error in errors), errors
    assert all("did not start: it was suspended" in error.message for error in errors)
    assert errors[0].log_tail == ["about to hang"] or errors[0].log_tail == []
    assert not alive(pid)
    again = asyncio.create_task(engine.ensure_ready())  # the next one asks, and another child is started
    await asyncio.to_thread(eventually, lambda: engine.pid not in (None, pid), "there is another child")
    again.cancel()


@pytest.mark.parametrize("which", ["child", "others", "group"])
async def test_the_real_engine_is_suspended_while_it_loads(engines, which):
    engine = engines(find_launcher(), demo_spec(threads=400))
    starting = asyncio.create_task(engine.ensure_ready())
    pid = await has_child(engine)
    await asyncio.to_thread(eventually, lambda: len(family(pid)) > 1, "it is watched")
    stop(pid, which)
    with pytest.raises(EngineStartError, match="it was suspended"):
        await asyncio.wait_for(starting, SOON)


@pytest.mark.parametrize("which", ["child", "others", "group"])
@pytest.mark.parametrize("way", ["wheel", "binary"])
async def test_suspended_while_it_serves(engines, tmp_path, way, which):
    engine = engines(find_launcher(str(make_binary(tmp_path / "llama-server")) if way == "binary" else None))
    address = await asyncio.wait_for(engine.ensure_ready(), PATIENCE)
    everybody = family(engine.pid)
    stop(engine.pid, which)
    died = await asyncio.wait_for(engine.wait_for_exit(address), SOON)
    assert "it was suspended" in died.message
    assert died.retryable
    await asyncio.to_thread(eventually, lambda: not any(alive(one.pid) for one in everybody), "all are gone", SOON)
    again = await asyncio.wait_for(engine.ensure_ready(), PATIENCE)
    assert "Paris" in await asyncio.to_thread(completion, again)


def test_a_short_suspension_is_no_failure():
    """A tracer that samples a process stops it again and again."""
    running, stopped = Usage(0.0, 0), Usage(0.0, 0, stopped=True)
    halt = SuspendDetector()
    now = 0.0
    for _ in range(100):
        assert not halt.look(now, stopped)
        assert halt.pause < LOOK_SECONDS
        now += 0.1
        assert not halt.look(now, running)
        assert halt.pause == LOOK_SECONDS
        now += 0.1
    assert not halt.look(now, stopped)
    assert not halt.look(now, None), "nobody could tell"
    assert not halt.look(now, stopped)
    assert halt.look(now + 1.0, stopped)


@pytest.mark.parametrize("way", ["well", "hangs", "ignores_sigterm"])
async def test_a_suspended_engine_is_stopped(engines, way):
    engine = engines(way)
    starting = asyncio.create_task(engine.ensure_ready())
    pid = await has_child(engine)
    if way != "hangs":
        await starting
    os.kill(pid, signal.SIGSTOP)
    await asyncio.wait_for(engine.stop(), SOON)
    assert not alive(pid)
    assert engine.state == "stopped"
    await asyncio.gather(starting, return_exceptions=True)


async def test_what_is_not_ready_is_not_given_time_to_end(engines):
    engine = engines("hangs_and_ignores_sigterm")
    starting = asyncio.create_task(engine.ensure_ready())
    await has_child(engine)
    await asyncio.to_thread(eventually, lambda: engine.log_tail, "it ignores SIGTERM now")
    await asyncio.wait_for(engine.stop(), SOON)
    with pytest.raises(EngineStartError, match="stopped during its start"):
        await starting


async def test_a_hanging_engine_is_killed(engines):
    engine = engines("ignores_sigterm")
    address = await engine.ensure_ready()
    with blocking_calls_fail():
        engine.fail("it sent nothing for 2 s", "Look after it.")
    died = await asyncio.wait_for(engine.wait_for_exit(address), SOON)
    assert "SIGKILL): it sent nothing for 2 s." in died.message
    assert died.operator_hint == "Look after it."


@pytest.mark.parametrize("which", ["child", "others", "group"])
@pytest.mark.parametrize("way", ["real", "binary"])
def test_a_suspended_engine_exits_with_its_parent(tmp_path, monkeypatch, way, which):
    arguments = tmp_path / "arguments.json"
    monkeypatch.setenv("GGML_TEST_ARGUMENTS", str(arguments))
    binary = make_binary(tmp_path / "llama-server")
    parent, pid, directory, _, _ = start_parent(tmp_path, way if way == "real" else f"binary:{binary}", "ready")
    everybody = family(pid)
    assert len(everybody) > 1
    if way == "binary":
        assert json.loads(arguments.read_text())["pid"] in [one.pid for one in everybody]
    parent.send_signal(signal.SIGSTOP)  # it must not see what happens to its child
    stop(pid, which)
    end(parent, signal.SIGKILL)
    eventually(lambda: not any(alive(one.pid) for one in everybody), "all are gone", SOON)
    eventually(lambda: not directory.exists(), "the private directory too", SOON)


@pytest.mark.parametrize("which", ["child", "others", "group"])
def test_an_engine_that_is_suspended_while_it_loads_exits_with_its_parent(tmp_path, which):
    parent, pid, _, _, state = start_parent(tmp_path, "real", "loading")
    assert state == "starting", "the test is of no use if the load was quicker"
    everybody = family(pid)
    parent.send_signal(signal.SIGSTOP)
    stop(pid, which)
    end(parent, signal.SIGKILL)
    eventually(lambda: not any(alive(one.pid) for one in everybody), "all are gone", SOON)


def test_what_a_wrapper_of_the_binary_started_goes_too(tmp_path):
    """A script that starts the server as its own child: the kernel's signal does not reach so far."""
    real = make_binary(tmp_path / "real-llama-server")
    wrapper = tmp_path / "llama-server"
    wrapper.write_text(f'#!/bin/sh\n"{real}" "$@"\nexit $?\n')
    wrapper.chmod(0o755)
    parent, pid, _, _, _ = start_parent(tmp_path, f"binary:{wrapper}", "ready")
    everybody = family(pid)
    assert len(everybody) == 4, "the child, its watcher, the script, the server"
    parent.send_signal(signal.SIGSTOP)
    stop(pid, "group")
    end(parent, signal.SIGKILL)
    eventually(lambda: not any(alive(one.pid) for one in everybody), "all are gone", SOON)


def test_the_end_of_the_program_does_not_wait_for_a_suspended_engine(tmp_path):
    code = (
        "import asyncio, os, signal\n"
        "from tests.core.engine.children import BadLauncher, demo_spec\n"
        "from miner.core.engine.process import EngineProcess\n"
        "engine = EngineProcess(demo_spec(), BadLauncher('well'), stop_grace=1000.0)\n"
        "asyncio.run(engine.ensure_ready())\n"
        "print(engine.pid)\n"
        "os.kill(engine.pid, signal.SIGSTOP)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert not alive(int(done.stdout))


@pytest.mark.parametrize("starts_server", [False, True])
def test_what_a_child_does_for_its_server_is_no_progress_of_that(starts_server):
    stall = StallDetector(100.0, starts_server=starts_server)
    began = stall.last
    stall.look(began + 1, Usage(2.0, 50 << 20, own_cpu=1.0, own_resident=20 << 20), 10)
    assert stall.last == began + 1
    stall.look(began + 2, Usage(9.0, 60 << 20, own_cpu=8.0, own_resident=30 << 20), 10)
    assert stall.last == began + (1 if starts_server else 2)
    stall.look(began + 3, Usage(11.0, 60 << 20, own_cpu=8.5, own_resident=30 << 20), 10)
    assert stall.last == began + 3
