"""One engine over its lives: real children, good and bad, and what is left of them (nothing)."""

import asyncio
import dataclasses
import gc
import http.client
import json
import os
import signal
import time
from pathlib import Path

import pytest

from miner.core.engine.circuit_breaker import CircuitBreaker
from miner.core.engine.launchers import Launcher, find_launcher
from miner.core.engine.process import EngineProcess
from miner.errors import EngineCrashedError, EngineStartError
from tests.core.engine.children import PATIENCE, BadLauncher, Clock, alive, ask, completion, demo_spec, eventually

pytestmark = pytest.mark.engine


class Engines:
    """Makes engines with short waits, and sees to it that none is left."""

    def __init__(self):
        self.made = []

    def __call__(self, launcher: Launcher | str | None = None, spec=None, **options) -> EngineProcess:
        if isinstance(launcher, str):
            launcher = BadLauncher(launcher)
        options = {"start_timeout": PATIENCE, "stop_grace": 5.0, "backoff": (0.05, 0.2), **options}
        engine = EngineProcess(spec or demo_spec(), launcher or find_launcher(), **options)
        self.made.append(engine)
        return engine


@pytest.fixture
def engines():
    made = Engines()
    yield made
    pids = [engine.pid for engine in made.made]
    for engine in made.made:
        engine.kill()
    assert [pid for pid in pids if pid and alive(pid)] == []


async def test_a_real_engine_starts_answers_and_leaves_nothing(engines):
    engine = engines()
    assert engine.state == "stopped"
    assert engine.memory is None
    address = await asyncio.wait_for(engine.ensure_ready(), PATIENCE)
    assert engine.state == "ready"
    assert engine.address == address
    socket = address.unix_socket
    assert socket is not None
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    assert address.api_key is None
    _, props = await asyncio.to_thread(ask, address, "GET", "/props")
    assert (props["default_generation_settings"]["n_ctx"], props["total_slots"]) == (512, 2)
    pid = engine.pid
    assert pid is not None
    assert (engine.memory or 0) > 50_000_000
    assert await asyncio.to_thread(ask, address, "GET", "/health") == (200, {"status": "ok"})
    assert "Paris" in await asyncio.to_thread(completion, address)
    _, models = await asyncio.to_thread(ask, address, "GET", "/v1/models")
    assert [model["id"] for model in models["data"]] == ["demo"]
    assert (await asyncio.to_thread(ask, address, "GET", "/slots"))[0] == 200

    await engine.stop()
    assert (engine.state, engine.pid, engine.memory, engine.address) == ("stopped", None, None, None)
    assert not alive(pid)
    assert not socket.parent.exists()
    assert engine.crash_error() is None
    await engine.stop()


async def test_chat_and_embeddings_from_one_engine(engines):
    engine = engines(spec=demo_spec(pooling="mean"))
    address = await engine.ensure_ready()
    assert "Paris" in await asyncio.to_thread(completion, address)
    status, answer = await asyncio.to_thread(ask, address, "POST", "/v1/embeddings", {"input": ["a cat", "a dog"]})
    assert status == 200
    assert [len(item["embedding"]) for item in answer["data"]] == [576, 576]


async def test_a_chat_template_and_cache_types_reach_the_engine(engines):
    template = "{% for m in messages %}<<{{ m.content }}>>{% endfor %}"
    engine = engines(spec=demo_spec(chat_template=template, cache_type_k="q8_0", cache_type_v="q8_0", flash_attn="on"))
    address = await engine.ensure_ready()
    body = {"messages": [{"role": "user", "content": "hello"}]}
    assert await asyncio.to_thread(ask, address, "POST", "/apply-template", body) == (200, {"prompt": "<<hello>>"})


async def test_many_callers_one_start(engines):
    engine = engines("well")
    addresses = await asyncio.gather(*(engine.ensure_ready() for _ in range(20)))
    assert len(set(addresses)) == 1
    assert engine.restarts == 0


async def test_an_engine_that_was_stopped_on_purpose_is_not_restarted_but_started(engines):
    engine = engines("well")
    for _ in range(3):
        await engine.ensure_ready()
        await engine.stop()
    assert engine.restarts == 0


async def test_a_cancelled_caller_does_not_end_the_start(engines):
    engine = engines("slow_but_alive")
    first = asyncio.create_task(engine.ensure_ready())
    second = asyncio.create_task(engine.ensure_ready())
    await asyncio.sleep(0.3)
    assert engine.state == "starting"
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await second).base_url == "http://127.0.0.1:9"


async def test_the_start_continues_without_waiters(engines):
    engine = engines("slow_but_alive")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(engine.ensure_ready(), 0.2)
    assert engine.state == "starting"
    await engine.ensure_ready()
    assert engine.restarts == 0


async def test_stop_while_it_starts(engines):
    engine = engines("hangs")
    caller = asyncio.create_task(engine.ensure_ready())
    await asyncio.to_thread(eventually, lambda: engine.pid, "there is a child")
    pid = engine.pid
    await engine.stop()
    assert not alive(pid)
    with pytest.raises(EngineStartError, match="stopped during its start"):
        await caller
    assert engine.state == "stopped"
    assert engine.crash_error() is None


async def test_ensure_ready_while_stopping(engines):
    engine = engines("ignores_sigterm", stop_grace=0.5)
    await engine.ensure_ready()
    stopping = asyncio.create_task(engine.stop())
    await asyncio.sleep(0.1)
    assert engine.state == "stopping"
    pid = engine.pid
    await engine.ensure_ready()
    await stopping
    assert engine.state == "ready"
    assert engine.pid != pid


async def test_concurrent_stops(engines):
    engine = engines("well")
    await engine.ensure_ready()
    await asyncio.gather(*(engine.stop() for _ in range(5)))
    assert engine.state == "stopped"


async def test_ignores_sigterm(engines):
    engine = engines("ignores_sigterm", stop_grace=0.3)
    await engine.ensure_ready()
    pid = engine.pid
    await asyncio.wait_for(engine.stop(), PATIENCE)
    assert not alive(pid)


@pytest.mark.parametrize("how", ["stop", "kill", "crash"])
async def test_grandchildren_go_too(engines, tmp_path, how):
    note = tmp_path / "pid"
    engine = engines(BadLauncher("forks", note), stop_grace=0.3)
    await engine.ensure_ready()
    grandchild = int(note.read_text())
    assert alive(grandchild)
    if how == "stop":
        await engine.stop()
    elif how == "kill":
        engine.kill()
    else:
        os.kill(engine.pid, signal.SIGKILL)
        assert (await asyncio.wait_for(engine.wait_for_exit(), PATIENCE)).exit_status == -9
    deadline = time.monotonic() + PATIENCE
    while alive(grandchild):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_a_hang_at_start_is_a_stall(engines):
    engine = engines("hangs", start_timeout=1.0)
    with pytest.raises(EngineStartError, match="no progress for 1 s") as caught:
        await asyncio.wait_for(engine.ensure_ready(), PATIENCE)
    assert caught.value.log_tail == ["about to hang"]
    assert engine.pid is None


async def test_computing_is_progress_but_not_for_ever(engines):
    engine = engines("hangs_busily", start_timeout=0.5)
    began = time.monotonic()
    with pytest.raises(EngineStartError, match="was not ready after"):
        await asyncio.wait_for(engine.ensure_ready(), PATIENCE)
    assert time.monotonic() - began > 4.0


async def test_printing_renews_the_stall_time_out(engines):
    engine = engines("slow_but_alive", start_timeout=1.5)
    await asyncio.wait_for(engine.ensure_ready(), PATIENCE)
    assert "loaded 11 of 12" in engine.log_tail


async def test_endless_printing_neither_blocks_nor_grows(engines, tmp_path):
    note = tmp_path / "count"
    engine = engines(BadLauncher("prints_endlessly", note))
    await engine.ensure_ready()

    async def printed() -> int:
        await asyncio.to_thread(eventually, note.exists, "the child has counted")
        return int(note.read_text())

    first = await asyncio.wait_for(printed(), PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while await printed() < first + 20_000:  # KiB
        assert time.monotonic() < deadline, "the child is blocked"
        await asyncio.sleep(0.05)
    tail = engine.log_tail
    assert len(tail) <= 42
    assert sum(map(len, tail)) <= 3 * 8192
    await asyncio.wait_for(engine.stop(), PATIENCE)


async def test_a_line_without_end_is_cut_at_its_front(engines):
    engine = engines("never_ends_its_line")
    await engine.ensure_ready()
    deadline = time.monotonic() + PATIENCE
    while not (engine.log_tail and engine.log_tail[-1].endswith("the end")):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    assert len(engine.log_tail[-1]) <= 8192


async def test_junk_before_the_ready_line_is_log(engines):
    engine = engines("junk_first")
    assert (await engine.ensure_ready()).base_url == "http://127.0.0.1:9"
    assert engine.log_tail == ["a banner of some library", '{"not": "ours"}', '{"ready": 1', "[1, 2]"]


async def test_closed_pipes_are_not_death(engines):
    engine = engines("closes_its_pipes")
    await engine.ensure_ready()
    await asyncio.sleep(0.5)
    assert engine.state == "ready"
    assert alive(engine.pid)


async def test_an_exit_at_start_has_the_final_output(engines):
    engine = engines("dies_at_once")
    with pytest.raises(EngineStartError, match=r"the moon is in the wrong phase \(exit status 7\)") as caught:
        await engine.ensure_ready()
    assert caught.value.log_tail == ["0.00.001.000 E main: error: the moon is in the wrong phase"]
    with pytest.raises(EngineStartError, match="exit status 0"):
        await engines("dies_silently").ensure_ready()


async def test_each_waiter_has_an_error_of_its_own(engines):
    engine = engines("dies_at_once")
    errors = await asyncio.gather(*(engine.ensure_ready() for _ in range(5)), return_exceptions=True)
    assert len({id(error) for error in errors}) == 5
    assert {str(error) for error in errors} == {str(errors[0])}


async def test_a_program_that_is_not_there(engines):
    class Nothing(BadLauncher):
        def plan(self, spec, directory):
            plan = super().plan(spec, directory)
            return type(plan)(("/nonexistent/engine",), plan.env)

    with pytest.raises(EngineStartError, match=r"bad cannot be started: .*No such file"):
        await engines(Nothing("well")).ensure_ready()


async def test_a_killed_engine_is_a_typed_error_and_comes_back(engines):
    engine = engines()
    address = await engine.ensure_ready()
    assert engine.crash_error() is None
    waiter = asyncio.create_task(engine.wait_for_exit())
    await asyncio.sleep(0)
    os.kill(engine.pid, signal.SIGKILL)
    died = await asyncio.wait_for(waiter, PATIENCE)
    assert isinstance(died, EngineCrashedError)
    assert died.exit_status == -signal.SIGKILL
    assert "SIGKILL" in died.message
    assert "memory ran out" in died.message
    assert died.retryable
    assert str(engine.crash_error()) == str(died)
    assert engine.state == "stopped"
    assert not address.unix_socket.parent.exists()

    again = await engine.ensure_ready()
    assert again != address
    assert engine.restarts == 1
    assert engine.crash_error() is None
    assert engine.crash_error(again) is None
    assert str(engine.crash_error(address)) == str(died), "who used the first child can still learn what became of it"
    assert str(await engine.wait_for_exit(address)) == str(died)
    assert "Paris" in await asyncio.to_thread(completion, again)


async def test_the_next_start_waits_out_the_pause(engines):
    engine = engines("well", backoff=(1.0, 5.0))
    await engine.ensure_ready()
    os.kill(engine.pid, signal.SIGKILL)
    await engine.wait_for_exit()
    began = time.monotonic()
    start = asyncio.create_task(engine.ensure_ready())
    async with asyncio.timeout(PATIENCE):
        while engine.pid is None:
            await asyncio.sleep(0.01)
            assert engine.state == "starting"
    assert time.monotonic() - began > 0.7
    await start
    os.kill(engine.pid, signal.SIGKILL)
    await engine.wait_for_exit()
    engine.reset()
    assert engine.crash_error() is None
    await engine.ensure_ready()


async def test_a_reset_ends_the_pause(engines):
    engine = engines("well", backoff=(10 * PATIENCE, 10 * PATIENCE))
    await engine.ensure_ready()
    os.kill(engine.pid, signal.SIGKILL)
    await engine.wait_for_exit()
    start = asyncio.create_task(engine.ensure_ready())
    await asyncio.sleep(0.1)
    assert engine.pid is None
    engine.reset()
    engine.reset()
    await asyncio.wait_for(start, PATIENCE)


async def test_stop_ends_the_pause(engines):
    engine = engines("well", backoff=(PATIENCE, PATIENCE))
    await engine.ensure_ready()
    os.kill(engine.pid, signal.SIGKILL)
    await engine.wait_for_exit()
    start = asyncio.create_task(engine.ensure_ready())
    await asyncio.sleep(0.1)
    await asyncio.wait_for(engine.stop(), PATIENCE / 2)
    with pytest.raises(EngineStartError):
        await start


async def test_an_engine_that_keeps_crashing_is_given_up(engines):
    engine = engines("ready_then_dies", crash_limit=3)
    for _ in range(3):
        await engine.ensure_ready()
        crash = await asyncio.wait_for(engine.wait_for_exit(), PATIENCE)
        assert "SIGABRT" in crash.message
        assert "n_tokens > 0" in crash.message
    assert engine.state == "failed"
    with pytest.raises(EngineStartError, match="failed 3 times") as caught:
        await engine.ensure_ready()
    assert caught.value.log_tail == ["GGML_ASSERT(n_tokens > 0) failed"]
    assert engine.crash_error() is not None
    engine.reset()
    assert engine.state == "stopped"
    await engine.ensure_ready()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("miner.core.engine.circuit_breaker.monotonic", clock)
    return clock


async def test_after_a_cooldown_there_is_one_try(engines, clock):
    """Each that fails makes the next cooldown twice as long, up to the longest; meanwhile everybody is refused."""
    engine = engines("dies_at_once", crash_limit=2, backoff=(0.01, 0.01), cooldown=(300.0, 1000.0))
    for _ in range(2):
        with pytest.raises(EngineStartError, match="moon"):
            await engine.ensure_ready()
    for failures, cooldown in ((2, 300.0), (3, 600.0), (4, 1000.0), (5, 1000.0)):
        assert engine.state == "failed"
        starts = engine.restarts
        errors = await asyncio.gather(*(engine.ensure_ready() for _ in range(5)), return_exceptions=True)
        assert all(isinstance(error, EngineStartError) and error.retryable for error in errors)
        assert all(f"failed {failures} times" in error.message for error in errors)
        assert all(cooldown - PATIENCE < error.retry_after <= cooldown for error in errors)
        assert engine.restarts == starts
        clock.ahead += errors[0].retry_after
        assert engine.state == "stopped"
        errors = await asyncio.gather(*(engine.ensure_ready() for _ in range(5)), return_exceptions=True)
        assert all("exit status 7" in error.message for error in errors)
        assert engine.restarts == starts + 1


async def test_a_try_that_succeeds_closes_the_circuit(engines, clock):
    engine = engines("ready_then_dies", crash_limit=2, backoff=(0.01, 0.01), cooldown=(300.0, 1000.0))
    for cooldown in (300.0, 600.0):  # it has not run for long: the cooldown still grows
        for _ in range(2):
            await engine.ensure_ready()
            await engine.wait_for_exit()
        with pytest.raises(EngineStartError, match="failed 2 times") as caught:
            await engine.ensure_ready()
        assert cooldown - PATIENCE < caught.value.retry_after <= cooldown
        clock.ahead += caught.value.retry_after
        await engine.ensure_ready()
        await engine.stop()
        assert engine.state == "stopped"


def test_a_cooldown_is_short_again_after_the_engine_ran_for_long():
    breaker = CircuitBreaker(backoff=(0.0, 0.0), limit=1, window=60.0, cooldown=(30.0, 600.0))
    cooldowns = []
    for ran in (0.0, 1.0, 59.0, 0.0, 0.0, 0.0, 60.0, 0.0):
        assert breaker.failed(ran)
        cooldowns.append(round(breaker.open_for))
    assert cooldowns == [30, 60, 120, 240, 480, 600, 30, 60]
    breaker.reset()
    assert not breaker.open_for
    assert breaker.failed()
    assert round(breaker.open_for) == 30


async def test_failed_starts_count_until_the_model_file_changes(engines, tmp_path):
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF" + bytes(100))
    engine = engines("dies_at_once", demo_spec(model_path=model), crash_limit=2)
    for _ in range(2):
        with pytest.raises(EngineStartError, match="moon"):
            await engine.ensure_ready()
    assert engine.state == "failed"
    with pytest.raises(EngineStartError, match="next attempt is in"):
        await engine.ensure_ready()
    assert engine.restarts == 1
    model.write_bytes(b"GGUF" + bytes(200))
    with pytest.raises(EngineStartError, match="exit status 7"):
        await engine.ensure_ready()


async def test_old_crashes_are_forgotten(engines):
    engine = engines("dies_at_once", crash_limit=2, crash_window=0.3)
    for _ in range(4):
        with pytest.raises(EngineStartError, match="exit status 7"):
            await engine.ensure_ready()
        await asyncio.sleep(0.35)
    assert engine.state == "stopped"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (os.urandom(8) * 1000, "is not a GGUF file"),
        ("directory", "is a directory"),
    ],
)
async def test_a_file_that_is_no_model_is_refused_without_a_child(engines, tmp_path, content, reason):
    model = tmp_path / "model.gguf"
    if content == "directory":
        model.mkdir()
    elif content is not None:
        model.write_bytes(content)
    engine = engines(spec=demo_spec(model_path=model))
    for _ in range(4):  # however often: the file may be there the next time, so this is no crash
        with pytest.raises(EngineStartError, match=reason) as caught:
            await engine.ensure_ready()
    assert str(model) in str(caught.value)
    assert caught.value.operator_hint
    assert engine.state == "stopped"


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def cut_in_header(data: bytes) -> bytes:
    return data[:300]


def version_nine(data: bytes) -> bytes:
    return data[:4] + b"\x09" + data[5 : len(data) // 50]


def other_architecture(data: bytes) -> bytes:
    return data.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lamma", 1)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut, "truncated or damaged"),
        (cut_in_header, "truncated or damaged"),
        (version_nine, "GGUF version 9"),
        (other_architecture, "architecture 'lamma'"),
    ],
)
async def test_a_damaged_model_is_explained(engines, tmp_path, damage, reason):
    model = tmp_path / "model.gguf"
    model.write_bytes(damage(demo_spec().model_path.read_bytes()))
    engine = engines(spec=demo_spec(model_path=model))
    with pytest.raises(EngineStartError, match=reason) as caught:
        await asyncio.wait_for(engine.ensure_ready(), PATIENCE)
    assert str(model) in caught.value.message
    assert caught.value.operator_hint
    assert caught.value.log_tail, "llama.cpp's own lines are kept"
    assert engine.pid is None


def too_many_tokens() -> int:
    """A context whose cache is one and a half times the machine's memory, at 23040 bytes for a token."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 * 3 // 23040


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chat_template": "{% if %}"}, "chat template is not valid"),
        ({"cache_type_v": "q4_0", "flash_attn": "off"}, "needs flash attention"),
        ({"mmproj": Path("/nonexistent/mmproj.gguf")}, "vision projector /nonexistent/mmproj.gguf cannot be loaded"),
        ({"ctx_size": too_many_tokens()}, "not enough memory"),
    ],
)
async def test_settings_that_cannot_work_are_explained(engines, changes, reason):
    engine = engines(spec=demo_spec(parallel=1, **changes))
    with pytest.raises(EngineStartError, match=reason) as caught:
        await asyncio.wait_for(engine.ensure_ready(), PATIENCE)
    assert caught.value.operator_hint
    assert caught.value.log_tail


@dataclasses.dataclass(frozen=True)
class NoThreads:
    """The real child with zero threads somewhere, which llama.cpp answers with an abort."""

    where: str
    name: str = "xllamacpp"
    features: frozenset[str] = frozenset()

    def plan(self, spec, directory):
        plan = find_launcher().plan(spec, directory)
        config = json.loads(plan.stdin)
        config["values"][self.where] = 0
        return dataclasses.replace(plan, stdin=json.dumps(config).encode() + b"\n")


async def test_an_abort_while_llama_cpp_loads(engines):
    with pytest.raises(EngineStartError, match=r"n_threads > 0 \(killed by SIGABRT\)"):
        await asyncio.wait_for(engines(NoThreads("cpuparams_batch.n_threads")).ensure_ready(), PATIENCE)


async def test_an_abort_while_llama_cpp_answers(engines):
    engine = engines(NoThreads("cpuparams.n_threads"))
    address = await engine.ensure_ready()
    with pytest.raises((OSError, http.client.HTTPException)):
        await asyncio.to_thread(completion, address)
    died = await asyncio.wait_for(engine.wait_for_exit(address), PATIENCE)
    assert died.exit_status == -signal.SIGABRT
    assert "n_threads > 0" in died.message


def test_one_engine_over_several_loops(engines):
    engine = engines("well")
    first = asyncio.run(engine.ensure_ready())
    pid = engine.pid
    assert asyncio.run(engine.ensure_ready()) == first, "the child does not die with the loop that started it"
    assert engine.pid == pid
    asyncio.run(engine.stop())
    assert not alive(pid)


def test_a_dropped_engine_ends_its_child():
    engine = EngineProcess(demo_spec(), BadLauncher("well"))
    asyncio.run(engine.ensure_ready())
    pid = engine.pid
    assert alive(pid)
    del engine
    gc.collect()
    deadline = time.monotonic() + PATIENCE
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_kill_without_a_loop(engines):
    engine = engines()
    address = asyncio.run(engine.ensure_ready())
    pid = engine.pid
    engine.kill()
    assert not alive(pid)
    assert not address.unix_socket.parent.exists()
    assert engine.state == "stopped"
    engine.kill()


def test_a_forked_copy_leaves_the_child_alone(engines):
    engine = engines("well")
    asyncio.run(engine.ensure_ready())
    pid = engine.pid
    copy = os.fork()
    if copy == 0:
        engine.kill()
        engine.reset()
        os._exit(0 if engine.state == "stopped" and engine.pid is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]) == 0
    assert alive(pid)
    assert engine.state == "ready"


async def test_waiting_for_death_leaves_nothing_behind(engines):
    engine = engines("well")
    await engine.ensure_ready()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(2000):
        waiter = asyncio.create_task(engine.wait_for_exit())
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
    gc.collect()
    assert len(gc.get_objects()) < before + 500
