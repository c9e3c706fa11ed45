"""A user's own server as an engine: started, watched, stopped, and what is left of it (nothing)."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from miner.core.engine.command import CommandLauncher, CommandSpec
from miner.core.engine.command_diagnosis import explain_command
from miner.core.engine.environment import command_environment
from miner.core.engine.process import EngineProcess
from miner.core.engine.run_marker import VARIABLE, kill_marked
from miner.errors import ConfigError, EngineStartError
from tests.core.engine.children import PATIENCE, alive, ask, eventually
from tests.servers.ports import closed_port

pytestmark = pytest.mark.engine

STUB = str(Path(__file__).with_name("stub_command.py"))


def command(*options: str, **changes) -> CommandSpec:
    """The stub as a command."""
    argv = (sys.executable, STUB, "--port", "${PORT}", *options)
    return CommandSpec(**{"backend": "gpu", "argv": argv, "slots": 4, **changes})


@pytest.fixture
def engines():
    made: list[EngineProcess] = []

    def make(*options, start_timeout=PATIENCE, stop_grace=5.0, **changes):
        made.append(
            EngineProcess(
                command(*options, **changes), CommandLauncher(), start_timeout=start_timeout, stop_grace=stop_grace,
                backoff=(0.05, 0.2),
            )
        )  # fmt: skip
        return made[-1]

    yield make
    pids = [engine.pid for engine in made]
    for engine in made:
        engine.kill()
    assert [pid for pid in pids if pid and alive(pid)] == []


async def get(address, path):
    return await asyncio.to_thread(ask, address, "GET", path)


async def test_it_starts_is_ready_after_503_and_stops_by_its_signal(engines, tmp_path):
    note = tmp_path / "note"
    engine = engines("--load", "0.6", "--note", str(note), directory=tmp_path, stop_signal="SIGINT")
    began = time.monotonic()
    address = await asyncio.wait_for(engine.ensure_ready(), PATIENCE)
    assert time.monotonic() - began > 0.6
    assert (await get(address, "/v1/models"))[1]["data"][0]["id"] == "stub"
    assert (engine.memory or 0) > 5_000_000
    assert any("returned 503" in line for line in engine.log_tail)
    pid = engine.pid
    await engine.stop()
    assert note.read_text() == "stopped by SIGINT\n"
    assert not alive(pid)


async def test_port_directory_environment_and_mask(engines, tmp_path, monkeypatch):
    for name, value in {"HF_HOME": "/models", "HF_TOKEN": "s", "VLLM_API_KEY": "s", "VLLM_API_BASE": "http://x",
                        "MINER_SERVE_API_KEYS": "s", "OTHER": "x", "https_proxy": "http://p"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    env = (("MINE", "at ${PORT}"), ("VLLM_LOGGING_LEVEL", "WARNING"), ("GOMP_SPINCOUNT", "7"))
    address = await engines(env=env, directory=tmp_path).ensure_ready()
    _, seen = await get(address, "/environment")
    assert seen["MINE"] == f"at {address.base_url.rpartition(':')[2]}"
    assert (seen["VLLM_LOGGING_LEVEL"], seen["HF_HOME"], seen["https_proxy"], seen["GOMP_SPINCOUNT"]) == (
        "WARNING", "/models", "http://p", "7",
    )  # fmt: skip
    assert not {"HF_TOKEN", "VLLM_API_KEY", "VLLM_API_BASE", "MINER_SERVE_API_KEYS", "OTHER"} & seen.keys()
    assert seen["directory"] == str(tmp_path)
    assert seen["blocked"] == [signal.SIGHUP], "SIGTERM stops it"
    other = await engines(stop_signal="SIGINT").ensure_ready()
    assert (await get(other, "/environment"))[1]["blocked"] == [signal.SIGHUP, signal.SIGTERM]


async def test_a_port_of_its_own(engines):
    port = closed_port()
    with socket.create_server(("127.0.0.1", port)):
        with pytest.raises(EngineStartError, match=f"port {port} is in use by another process") as caught:
            await engines(port=port).ensure_ready()
        assert "choose another `port`" in (caught.value.operator_hint or "")
    engine = engines(port=port)
    for _ in range(2):
        assert (await engine.ensure_ready()).base_url == f"http://127.0.0.1:{port}"
        await engine.stop()


async def test_deaf_to_its_signal(engines):
    engine = engines("--way", "ignores_signals", stop_grace=0.5)
    await engine.ensure_ready()
    pid = engine.pid
    await asyncio.wait_for(engine.stop(), PATIENCE)
    assert not alive(pid)


@pytest.mark.parametrize("how", ["stop", "kill", "kill -9 of the command", "kill -9 of its supervisor"])
async def test_descendants_go_too(engines, tmp_path, how):
    """Also one in a session of its own whose parent has exited."""
    note = tmp_path / "pid"
    engine = engines("--way", "forks", "--note", str(note), stop_grace=0.5)
    await engine.ensure_ready()
    orphan = int(note.read_text())
    assert alive(orphan)
    if how == "stop":
        await engine.stop()
    elif how == "kill":
        await asyncio.to_thread(engine.kill)
    else:
        leader = engine.pid
        victim = leader if "supervisor" in how else server_of(leader)
        os.kill(victim, signal.SIGKILL)
        died = await asyncio.wait_for(engine.wait_for_exit(), PATIENCE)
        assert died.exit_status == -signal.SIGKILL
        assert "The command of backend 'gpu' (python" in died.message
    await asyncio.to_thread(eventually, lambda: not alive(orphan), "the orphan is gone")


async def test_what_no_sample_has_seen_goes_too(engines):
    """Its supervisor, which would have adopted it, is killed before the next sample: several times, most of them so."""
    for _ in range(5):
        engine = engines()
        address = await engine.ensure_ready()
        status, escaped = await asyncio.to_thread(ask, address, "POST", "/escape")
        assert (status, alive(escaped)) == (200, True)
        os.kill(engine.pid, signal.SIGKILL)
        await asyncio.wait_for(engine.wait_for_exit(), PATIENCE)
        await asyncio.to_thread(eventually, lambda pid=escaped: not alive(pid), "it is gone")


async def test_a_mark_is_for_what_was_left_behind_only(engines):
    """Not for what another service has started with a copy of the environment, when a command ends in order."""
    engine = engines()
    address = await engine.ensure_ready()
    _, seen = await get(address, "/environment")
    marked, other = with_mark(seen[VARIABLE]), with_mark(seen[VARIABLE] + "0")
    try:
        await engine.stop()
        assert marked.poll() is None
        kill_marked(seen[VARIABLE])
        assert marked.wait(PATIENCE) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        for process in (marked, other):
            process.kill()
            process.wait()


def with_mark(mark):
    return subprocess.Popen(["sleep", "600"], env={VARIABLE: mark})


async def test_a_ready_check_whose_body_never_ends_is_ready(engines):
    await asyncio.wait_for(engines(ready=("/endless",)).ensure_ready(), PATIENCE)


def server_of(leader):
    """The process of the command itself."""
    below = Path(f"/proc/{leader}/task/{leader}/children").read_text().split()
    return next(int(pid) for pid in below if b"stub_command" in Path(f"/proc/{pid}/cmdline").read_bytes())


PARENT = """
import asyncio, sys, time
from tests.core.engine.test_command import command
from miner.core.engine.command import CommandLauncher
from miner.core.engine.process import EngineProcess
note, *options = sys.argv[1:]
engine = EngineProcess(command(*options), CommandLauncher())
asyncio.run(engine.ensure_ready())
open(note, "w").write(str(engine.pid))
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_goes_with_us(tmp_path, number):
    """Also when we are killed, and also what it left in the background."""
    note, pids = tmp_path / "leader", tmp_path / "orphan"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(note), "--way", "forks", "--note", str(pids)])
    try:
        eventually(lambda: note.exists() and note.read_text(), "it runs")
        leader = int(note.read_text())
        left = [leader, server_of(leader), int(pids.read_text())]
        assert all(map(alive, left))
        parent.send_signal(number)
        parent.wait(PATIENCE)
        eventually(lambda: not any(map(alive, left)), "nothing is left")
    finally:
        parent.kill()
        parent.wait()


@pytest.mark.parametrize(
    ("options", "says", "hint"),
    [
        (("--way", "exits"), "it exited before it was ready", "foreground"),
        (("--way", "fails"), "not enough free GPU memory: 3.5/79.2 GiB", "--gpu-memory-utilization"),
        (("--way", "wants_terminal"), "it needs a terminal", "without one"),
        (("--way", "reads"), "standard input had 0 characters", ""),
        (("--no-such",), "it does not know the option --no-such", "Correct `command`"),
    ],
)
async def test_a_start_that_fails_is_explained(engines, options, says, hint):
    with pytest.raises(EngineStartError, match=says) as caught:
        await asyncio.wait_for(engines(*options).ensure_ready(), PATIENCE)
    assert caught.value.message.startswith("The command of backend 'gpu' (python")
    assert caught.value.backend == "gpu"
    assert hint in (caught.value.operator_hint or "")
    assert len(caught.value.log_tail) <= 40


async def test_a_daemon_is_ended_and_explained(engines, tmp_path):
    note = tmp_path / "pid"
    with pytest.raises(EngineStartError, match="exited before it was ready"):
        await engines("--way", "daemonizes", "--note", str(note)).ensure_ready()
    if note.exists() and note.read_text():
        await asyncio.to_thread(eventually, lambda: not alive(int(note.read_text())), "the daemon is gone")


async def test_another_port_or_path_is_named(engines):
    with pytest.raises(EngineStartError, match=r"no progress for 4 s; it listens on port \d+, not on \d+") as caught:
        await asyncio.wait_for(engines("--way", "other_port", start_timeout=4.0).ensure_ready(), PATIENCE)
    assert "set `port` of [backends.gpu]" in (caught.value.operator_hint or "")
    with pytest.raises(EngineStartError, match=r"; its ready check, /nope on port \d+, returned 404"):
        await asyncio.wait_for(engines(ready=("/nope",), start_timeout=2.0).ensure_ready(), PATIENCE)
    await engines("--no-health", ready=("/health", "/v1/models")).ensure_ready()


async def test_ready_checks_that_differ_are_logged_once_each(engines):
    """Lines of our own that come for ever would look like progress; so would those that the server logs of them."""
    engine = engines("--load", "3600", "--access-log", ready=("/nope", "/health"), start_timeout=6.0)
    with pytest.raises(EngineStartError, match=r"progress for 6 s; .* /health on port \d+, returned 503") as caught:
        await asyncio.wait_for(engine.ensure_ready(), PATIENCE)
    lines = engine.log_tail
    assert [line.split("returned ")[1] for line in lines if "ready check" in line] == ["404", "503"]
    assert sum("GET /" in line for line in lines) == 1
    assert not any("Traceback" in line for line in lines)
    assert "`ready` of [backends.gpu]" in (caught.value.operator_hint or "")


@pytest.mark.parametrize("form", ["common", "json", "logfmt", "path-first", "two-lines", "two-pieces", "traceback"])
async def test_what_a_server_logs_of_our_checks_is_no_progress(engines, form):
    """In whatever form: else a server that never gets ready is given up after ten times `start_timeout` only."""
    engine = engines("--load", "3600", "--access-log", form, start_timeout=4.0)
    got = "got no response" if form == "traceback" else "returned 503"
    with pytest.raises(
        EngineStartError, match=rf"no progress for 4 s; its ready check, /health on port \d+, {got}"
    ) as caught:
        await asyncio.wait_for(engine.ensure_ready(), PATIENCE)
    assert "`ready` of [backends.gpu]" in (caught.value.operator_hint or "")


async def test_what_the_ready_check_got_is_found_whatever_else_is_in_the_log(engines):
    engine = engines("--load", "3600", "--way", "begins_a_line", start_timeout=2.0)
    with pytest.raises(EngineStartError, match=r"for 2 s; its ready check, /health on port \d+, returned 503"):
        await asyncio.wait_for(engine.ensure_ready(), PATIENCE)
    engine = engines("--load", "3600", "--way", "prints_and_serves", start_timeout=0.5)
    with pytest.raises(
        EngineStartError, match=r"was not ready after \d s; its ready check, .*, returned 503"
    ) as caught:
        await asyncio.wait_for(engine.ensure_ready(), PATIENCE)
    assert len(caught.value.log_tail) <= 40


@pytest.mark.parametrize("form", ["json", "two-lines"])
async def test_what_a_server_prints_between_our_checks_is_progress(engines, form):
    engine = engines("--load", "10", "--way", "prints_its_load", "--access-log", form, start_timeout=4.0)
    await asyncio.wait_for(engine.ensure_ready(), PATIENCE)


async def test_endless_output_is_no_readiness(engines):
    with pytest.raises(EngineStartError, match=r"it was not ready after \d+ s"):
        await asyncio.wait_for(engines("--way", "prints_endlessly", start_timeout=0.3).ensure_ready(), PATIENCE)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: "no-such-program", "the program no-such-program is not on PATH"),
        (lambda path: str(path / "nothing"), "nothing does not exist"),
        (lambda path: str(path), "is a directory"),
        (lambda path: write(path / "script", "#!/bin/sh\n", 0o644), "is not executable"),
        (lambda path: write(path / "script", "#!/no/such/shell\n", 0o755), "interpreter"),
        (lambda path: write(path / "script", "\0\1\2", 0o755), "Exec format error"),
    ],
)
async def test_a_program_that_cannot_run(engines, tmp_path, make, says):
    with pytest.raises(EngineStartError, match=says) as caught:
        await engines(argv=(make(tmp_path), "${PORT}")).ensure_ready()
    assert caught.value.operator_hint


def write(path, text, mode):
    path.write_text(text)
    path.chmod(mode)
    return str(path)


async def test_a_directory_that_is_not_there(engines, tmp_path):
    with pytest.raises(EngineStartError, match=r"the directory .*/gone does not exist"):
        await engines(directory=tmp_path / "gone").ensure_ready()


async def test_a_relative_program_starts_at_the_directory(engines, tmp_path):
    write(tmp_path / "run", f'#!/bin/sh\nexec {sys.executable} {STUB} --port "$1"\n', 0o755)
    address = await engines(argv=("./run", "${PORT}"), directory=tmp_path).ensure_ready()
    assert (await get(address, "/health"))[0] == 200


async def test_a_crash_is_typed_and_comes_back(engines):
    engine = engines("--way", "dies")
    first = await engine.ensure_ready()
    died = await asyncio.wait_for(engine.wait_for_exit(first), PATIENCE)
    assert "crashed (killed by SIGSEGV): segmentation fault" in died.message
    assert await engine.ensure_ready() != first
    assert engine.restarts == 1


async def test_a_replaced_program_ends_the_cooldown(engines, tmp_path):
    program = write(tmp_path / "server", "#!/bin/sh\necho broken; exit 3\n", 0o755)
    engine = engines(argv=(program, "${PORT}"))
    for _ in range(3):
        with pytest.raises(EngineStartError, match="its last log line: broken"):
            await engine.ensure_ready()
    with pytest.raises(EngineStartError, match="has failed 3 times in a row"):
        await engine.ensure_ready()
    write(tmp_path / "server", f'#!/bin/sh\nexec {sys.executable} {STUB} --port "$1"\n', 0o755)
    await engine.ensure_ready()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"argv": ()}, r"backends\.gpu\.command: names no program"),
        ({"argv": ("vllm", "serve")}, r"command: has no \$\{PORT\}"),
        ({"sleep": 1}, r"sleep: the command has no --enable-sleep-mode"),
        ({"stop_signal": "SIGNOPE"}, "stop_signal: SIGNOPE"),
    ],
)
def test_a_command_that_cannot_work(changes, says):
    with pytest.raises(ConfigError, match=says):
        command(**changes)


def test_messages_hide_secrets():
    spec = command(argv=("vllm", "serve", "--port", "${PORT}", "--api-key", "s3cret", "--hf-token=s3cret"))
    assert spec.title == "command of backend 'gpu' (vllm serve --port ${PORT} --api-key *** --hf-token=***)"
    assert "s3cret" not in repr(command(env=(("A", "s3cret"),), api_key="s3cret"))
    long = command(argv=("vllm", "serve", *["word"] * 30, "${PORT}"))
    assert long.shown.endswith("word ...")
    assert len({command(), command(), command(port=1)}) == 2


def test_a_refused_download_names_the_secret(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "s")
    reason = explain_command(["GatedRepoError: 401 Client Error."], 1, "gpu", served=False)
    assert 'env = { HF_TOKEN = "${HF_TOKEN}" } into [backends.gpu]' in (reason.operator_hint or "")
    assert "HF_TOKEN" not in command_environment()


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["  Value error, Sleep mode is not supported on current platform. [type=value_error]", "see https://errors.x"],
         "it has no sleep mode on this platform"),
        (["torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"], "not enough GPU memory"),
        (["/usr/bin/python: No module named vllm"], "the Python module vllm is not installed"),
        (["ModuleNotFoundError: No module named 'sglang'"], "the Python module sglang is not installed"),
        (["[Errno 98] error while attempting to bind on address ('127.0.0.1', 8000): address already in use"],
         "its port is in use by another process"),
        (["(EngineCore pid=7) ERROR core.py: ValueError: no such dtype.", "  File x", "RuntimeError: Engine core "
          "initialization failed. See root cause above."], "ValueError: no such dtype"),
        (["a line", "the last"], "its last log line: the last"),
    ],
)  # fmt: skip
def test_reasons(lines, says):
    assert says in explain_command(lines, 1, "gpu", served=False).text


def test_clients_do_not_read_the_log_of_a_server_that_served_others():
    reason = explain_command(["loaded", '127.0.0.1 "my secret prompt"'], 3, "gpu", served=True)
    assert "secret" not in reason.text
    assert "secret" in reason.operator_hint
