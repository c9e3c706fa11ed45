"""Which launcher is found, what it plans, and that each kind of engine works and leaves nothing behind."""

import asyncio
import dataclasses
import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from miner.core.engine import launchers
from miner.core.engine.environment import clean_environment
from miner.core.engine.launchers import find_launcher, launcher_available
from miner.core.engine.process import EngineProcess
from miner.core.engine.spec import EngineSpec
from miner.errors import ConfigError, EngineStartError
from tests.core.engine.children import PATIENCE, BadLauncher, alive, ask, completion, demo_spec, eventually
from tests.paths import ROOT

HERE = Path(__file__).parent
FAKE = HERE / "fake_llama_server.py"


def make_binary(path: Path, script: Path = FAKE) -> Path:
    """An executable that runs a script of ours with this interpreter, in place, so that one pid is the server."""
    path.write_text(
        f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -c \"import sys; sys.argv[0] = '{path.name}'; "
        f"exec(compile(open('{script}').read(), '{script}', 'exec'))\" \"$@\"\n"
    )
    path.chmod(0o755)
    return path


@pytest.fixture
def no_packages(monkeypatch, tmp_path):
    """A machine without engines: nothing importable, and a PATH with no llama-server."""
    monkeypatch.setattr(launchers.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


async def run(launcher, spec=None):
    engine = EngineProcess(spec or demo_spec(), launcher, start_timeout=PATIENCE, backoff=(0.05, 0.2))
    try:
        address = await asyncio.wait_for(engine.ensure_ready(), PATIENCE)
        text = await asyncio.to_thread(completion, address)
        return engine, address, text
    finally:
        await engine.stop()


def seen_by_others(pid):
    """Environment and command line of a process."""
    return [Path(f"/proc/{pid}/{name}").read_text() for name in ("environ", "cmdline")]


# Finding.


@pytest.mark.engine
def test_the_wheel_comes_first_and_is_not_imported():
    code = (
        "import sys; from miner.core.engine.launchers import find_launcher, launcher_available\n"
        "assert launcher_available() is None; print(find_launcher().name, 'xllamacpp' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["xllamacpp", "False"]


def test_a_named_binary_wins(tmp_path, monkeypatch):
    binary = make_binary(tmp_path / "llama-server")
    found = find_launcher(str(binary))
    assert (found.name, found.binary) == ("llama-server", binary)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert find_launcher("llama-server").binary == binary
    assert find_launcher().name == "xllamacpp"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "is not there"),
        (lambda path: path.write_text("#!/bin/sh\n"), "is not executable"),
        (lambda path: path.mkdir(), "is a directory"),
    ],
)
def test_a_named_binary_that_cannot_run(tmp_path, make, why):
    path = tmp_path / "my-server"
    make(path)
    with pytest.raises(EngineStartError) as caught:
        find_launcher(str(path))
    for part in ("LLAMACPP_SERVER", str(path), why, "llm-service-backends[llamacpp]"):
        assert part in str(caught.value)
    assert launcher_available(str(path)) == str(caught.value)
    with pytest.raises(EngineStartError, match="is not on PATH"):
        find_launcher("no-such-llama-server")


def test_nothing_installed(no_packages):
    with pytest.raises(EngineStartError, match="No llama") as caught:
        find_launcher()
    assert caught.value.operator_hint == 'pip install "llm-service-backends[llamacpp]"'
    assert "pip install" in (launcher_available() or "")


def test_a_binary_on_path_is_next(no_packages):
    make_binary(no_packages / "llama-server")
    assert find_launcher().binary == no_packages / "llama-server"


def test_llama_cpp_python_is_last_and_does_less(no_packages, monkeypatch, tmp_path):
    origin = type("Spec", (), {"origin": str(tmp_path / "llama_cpp" / "__init__.py")})
    monkeypatch.setattr(launchers.importlib.util, "find_spec", lambda name: origin if name == "llama_cpp" else None)
    found = find_launcher()
    assert found.name == "llama-cpp-python"
    assert found.slots == 1
    assert "tools" in found.lacks
    with pytest.raises(EngineStartError, match="LLAMACPP_PARALLEL=2"):
        found.plan(demo_spec(), tmp_path)
    with pytest.raises(EngineStartError, match="LLAMACPP_POOLING=mean"):
        found.plan(demo_spec(parallel=1, pooling="mean"), tmp_path)
    for name, more in {
        "LLAMACPP_LORA": {"lora": ((Path("/a.gguf"), 1.0),)}, "LLAMACPP_CPU_MOE": {"cpu_moe": True},
        "LLAMACPP_N_CPU_MOE": {"n_cpu_moe": 2}, "LLAMACPP_SPEC_TYPE": {"spec_type": "ngram-mod"},
        "LLAMACPP_FLAGS": {"flags": (("swa-full", True),)},
    }.items():  # fmt: skip
        with pytest.raises(EngineStartError, match=f"{name}=.*: not with llama-cpp-python"):
            found.plan(demo_spec(parallel=1, **more), tmp_path)
    config = json.loads(found.plan(demo_spec(parallel=1, cache_type_k="q8_0"), tmp_path).stdin)
    assert config["values"]["n_ctx"] == 512
    assert config["constants"] == {"type_k": "GGML_TYPE_Q8_0"}


# Planning.


def test_the_plan_holds_no_secret_where_others_can_read_it(tmp_path):
    plan = find_launcher().plan(demo_spec(), tmp_path)
    assert plan.api_key
    assert len(plan.api_key) >= 24
    assert plan.api_key not in repr(plan)
    assert plan.api_key not in " ".join(plan.argv)
    assert plan.api_key not in str(plan.env)
    assert plan.api_key in plan.stdin.decode()
    at_port = plan.address("http://127.0.0.1:1234")
    assert at_port.api_key == plan.api_key
    assert plan.api_key not in repr(at_port)
    assert plan.address("unix:///x/engine.sock").api_key is None
    assert find_launcher().plan(demo_spec(), tmp_path).api_key != plan.api_key


def test_a_directory_with_a_long_path_means_a_port(tmp_path):
    long = tmp_path / ("x" * 100)
    assert json.loads(find_launcher().plan(demo_spec(), long).stdin)["socket"] is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"threads": 0}, "threads=0"),
        ({"threads": 5000}, "threads=5000: must be 1 to 512"),
        ({"ctx_size": 0}, "ctx_size=0"),
        ({"parallel": 0}, "parallel=0"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"flash_attn": "maybe"}, "flash_attn='maybe': must be one of on, off, auto"),
        ({"cache_type_k": "q99"}, "cache_type_k='q99'"),
        ({"pooling": "max"}, "pooling='max'"),
        ({"alias": ""}, "alias is empty"),
    ],
)
def test_a_spec_that_makes_no_sense(changes, says):
    with pytest.raises(ConfigError) as caught:
        demo_spec(**changes)
    assert says in str(caught.value)


def test_equal_specs_are_one_key():
    assert demo_spec() == demo_spec()
    assert len({demo_spec(), demo_spec(), demo_spec(ctx_size=1024)}) == 2
    assert dataclasses.replace(demo_spec(), parallel=3) != demo_spec()


# Running.


@pytest.mark.engine
async def test_the_child_has_none_of_our_secrets(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret-1")
    monkeypatch.setenv("HF_TOKEN", "secret-2")
    monkeypatch.setenv("GGML_API_KEY", "secret-3")
    monkeypatch.setenv("AIP_MODE", "PREDICTION")
    monkeypatch.setenv("LLAMA_ARG_PORT", "1")
    monkeypatch.setenv("PYTHONPATH", "/nonexistent")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    engine = EngineProcess(demo_spec(), find_launcher(), start_timeout=PATIENCE)
    await engine.ensure_ready()
    try:
        environment, command = seen_by_others(engine.pid)
    finally:
        await engine.stop()
    for word in ("secret", "AIP_", "LLAMA_", "PYTHONPATH"):
        assert word not in environment
        assert word not in command
    assert "CUDA_VISIBLE_DEVICES=0" in environment
    assert "GGML_NO_BACKTRACE=1" in environment


def test_how_threads_wait_can_be_set(monkeypatch):
    assert clean_environment()["GOMP_SPINCOUNT"] == "1000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "5")
    assert clean_environment()["GOMP_SPINCOUNT"] == "5"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert "GOMP_SPINCOUNT" not in clean_environment()


@pytest.mark.engine
async def test_the_wheel_on_a_port_asks_for_its_key():
    @dataclasses.dataclass(frozen=True)
    class AtPort:
        name: str = "xllamacpp"
        features: frozenset[str] = frozenset()

        def plan(self, spec, directory):
            plan = find_launcher().plan(spec, directory)
            config = json.loads(plan.stdin) | {"socket": None}
            return dataclasses.replace(plan, stdin=json.dumps(config).encode() + b"\n")

    engine = EngineProcess(demo_spec(), AtPort(), start_timeout=PATIENCE)
    address = await engine.ensure_ready()
    try:
        assert address.unix_socket is None
        assert address.base_url.startswith("http://127.0.0.1:")
        assert (await asyncio.to_thread(ask, address, "GET", "/props"))[1]["total_slots"] == 2
        assert "Paris" in await asyncio.to_thread(completion, address)
        stranger = dataclasses.replace(address, api_key=None)
        assert (await asyncio.to_thread(ask, stranger, "POST", "/v1/completions", {"prompt": "x"}))[0] == 401
    finally:
        await engine.stop()


@pytest.mark.engine
async def test_a_parameter_that_the_wheel_lacks_is_named():
    @dataclasses.dataclass(frozen=True)
    class Newer:
        name: str = "xllamacpp"
        features: frozenset[str] = frozenset()

        def plan(self, spec, directory):
            plan = find_launcher().plan(spec, directory)
            config = json.loads(plan.stdin)
            config["values"]["model.warp_factor"] = 9
            return dataclasses.replace(plan, stdin=json.dumps(config).encode() + b"\n")

    with pytest.raises(EngineStartError, match=r"xllamacpp \S+ has no parameter model.warp_factor"):
        await run(Newer())


@pytest.mark.engine
async def test_a_llama_server_binary(tmp_path, monkeypatch):
    note = tmp_path / "arguments.json"
    monkeypatch.setenv("GGML_TEST_ARGUMENTS", str(note))
    launcher = find_launcher(str(make_binary(tmp_path / "llama-server")))
    template = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    engine, address, text = await run(launcher, demo_spec(chat_template=template, pooling="mean", n_gpu_layers=0))
    assert "Paris" in text
    assert address.unix_socket is not None
    assert not address.unix_socket.parent.exists()
    given = json.loads(note.read_text())
    argv = given["argv"]
    assert argv[argv.index("--ctx-size") + 1] == "1024"
    assert argv[argv.index("--pooling") + 1] == "mean"
    assert argv[argv.index("--cache-ram") + 1] == "0"
    for flag in (
        "--no-ui",
        "--kv-unified",
        "--kv-unified-per-slot",
        "--no-context-shift",
        "--metrics",
        "--offline",
        "--chat-template-file",
    ):
        assert argv.count(flag) == 1
    assert "--no-webui" not in argv
    assert "build: 7777 (fake)" in engine.log_tail, "what the binary prints is log, not the ready line"
    assert not alive(given["pid"])


@pytest.mark.engine
async def test_an_old_llama_server_binary_gets_only_its_own_options(tmp_path, monkeypatch):
    note = tmp_path / "arguments.json"
    monkeypatch.setenv("GGML_TEST_ARGUMENTS", str(note))
    _, address, text = await run(find_launcher(str(make_binary(tmp_path / "old-llama-server"))))
    assert "Paris" in text
    assert address.unix_socket is None
    assert address.api_key
    argv = json.loads(note.read_text())["argv"]
    assert address.api_key not in " ".join(argv)
    assert not any(flag in argv for flag in ("--no-ui", "--no-webui", "--cache-ram", "--offline"))


@pytest.mark.engine
async def test_a_crash_of_a_binary_is_detected(tmp_path, monkeypatch):
    note = tmp_path / "arguments.json"
    monkeypatch.setenv("GGML_TEST_ARGUMENTS", str(note))
    launcher = find_launcher(str(make_binary(tmp_path / "llama-server")))
    engine = EngineProcess(demo_spec(), launcher, start_timeout=PATIENCE, backoff=(0.05, 0.2))
    try:
        await engine.ensure_ready()
        server = json.loads(note.read_text())["pid"]
        assert server != engine.pid
        assert (engine.memory or 0) > 100_000_000, "the server's memory counts, not only the supervisor's"
        os.kill(server, signal.SIGSEGV)
        assert (await asyncio.wait_for(engine.wait_for_exit(), PATIENCE)).exit_status == -signal.SIGSEGV
        await engine.ensure_ready()
        server = json.loads(note.read_text())["pid"]
        os.kill(engine.pid, signal.SIGKILL)  # the supervisor alone: the server must go all the same
        await asyncio.wait_for(engine.wait_for_exit(), PATIENCE)
        await asyncio.to_thread(eventually, lambda: not alive(server), "the server is gone")
    finally:
        await engine.stop()


@pytest.mark.engine
async def test_a_binary_with_a_damaged_model(tmp_path):
    model = tmp_path / "model.gguf"
    model.write_bytes(demo_spec().model_path.read_bytes()[:1_000_000])
    launcher = find_launcher(str(make_binary(tmp_path / "llama-server")))
    with pytest.raises(EngineStartError, match="truncated or damaged"):
        await run(launcher, demo_spec(model_path=model))


@pytest.mark.engine
async def test_a_binary_that_is_something_else(tmp_path):
    with pytest.raises(EngineStartError, match="is not a llama-server") as caught:
        await run(find_launcher(shutil.which("true")))
    assert caught.value.message.count("exit status") <= 1
    assert "LLAMACPP_SERVER" in (caught.value.operator_hint or "")
    script = tmp_path / "llama-server"
    script.write_text("not a program at all")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(EngineStartError, match="--help failed"):
        await run(find_launcher(str(script)))


# Orphans.


def start_parent(tmp_path, way, what):
    note = tmp_path / "note"
    parent = subprocess.Popen(
        [sys.executable, str(HERE / "parent.py"), way, what, str(note)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )
    eventually(lambda: note.exists() or parent.poll() is not None, "the parent has its engine")
    assert note.exists(), parent.communicate()[1].decode()
    pid, directory, other, state = note.read_text().split("\n")
    return parent, int(pid), Path(directory) if directory else None, int(other) if other else None, state


def end(parent, number):
    parent.send_signal(number)
    parent.communicate(timeout=PATIENCE)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.engine
def test_the_engine_exits_with_its_parent(tmp_path, number):
    parent, pid, directory, _, _ = start_parent(tmp_path, "real", "ready")
    assert alive(pid)
    assert directory
    assert directory.exists()
    end(parent, number)
    eventually(lambda: not alive(pid), "the engine is gone")
    eventually(lambda: not directory.exists(), "its directory too")


@pytest.mark.engine
def test_the_engine_exits_with_a_parent_that_is_killed_while_it_loads(tmp_path):
    parent, pid, _, _, state = start_parent(tmp_path, "real", "loading")
    assert state == "starting", "the test is of no use if the load was quicker"
    end(parent, signal.SIGKILL)
    eventually(lambda: not alive(pid), "the engine is gone")


@pytest.fixture
def short_directory():
    """Pytest's own directories have names that are too long for a socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)


@pytest.mark.engine
async def test_orphaned_directories_are_removed(short_directory, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(short_directory))
    launcher, hour_ago = BadLauncher("well"), time.time() - 3600
    owner = EngineProcess(demo_spec(), launcher)
    await owner.ensure_ready()
    (owned,) = short_directory.iterdir()
    left, young, other = (
        short_directory / "miner-engine-left",
        short_directory / "miner-engine-young",
        short_directory / "miner-other",
    )
    for directory in (left, young, other):
        directory.mkdir()
        (directory / "engine.sock").touch()
    for directory in (owned, left, other):
        os.utime(directory, (hour_ago, hour_ago))
    second = EngineProcess(demo_spec(), launcher)
    await second.ensure_ready()
    assert not left.exists()
    assert owned.exists()
    assert young.exists()
    assert other.exists()
    await owner.stop()
    await second.stop()
    assert sorted(short_directory.iterdir()) == [young, other]


@pytest.mark.engine
def test_the_engine_exits_with_its_parent_though_a_fork_holds_the_pipe(tmp_path):
    parent, pid, directory, copy, _ = start_parent(tmp_path, "real", "fork")
    assert copy
    assert directory
    try:
        parent.kill()
        parent.wait(PATIENCE)
        eventually(lambda: not alive(pid), "the engine is gone")
        eventually(lambda: not directory.exists(), "its directory too")
        assert alive(copy), "the test is of no use if the copy went too"
    finally:
        os.kill(copy, signal.SIGKILL)
        parent.communicate(timeout=PATIENCE)


@pytest.mark.engine
def test_a_binary_exits_with_its_parent(tmp_path, monkeypatch):
    arguments = tmp_path / "arguments.json"
    monkeypatch.setenv("GGML_TEST_ARGUMENTS", str(arguments))
    binary = make_binary(tmp_path / "llama-server")
    parent, pid, directory, _, _ = start_parent(tmp_path, f"binary:{binary}", "ready")
    server = json.loads(arguments.read_text())["pid"]
    assert alive(server)
    assert directory
    end(parent, signal.SIGKILL)
    eventually(lambda: not alive(pid) and not alive(server), "supervisor and server are gone")
    eventually(lambda: not directory.exists(), "its directory too")


@pytest.mark.parametrize("what", ["exit", "raise"])
@pytest.mark.engine
def test_nothing_is_left_when_the_program_ends_without_a_stop(tmp_path, what):
    parent, pid, _, _, _ = start_parent(tmp_path, "ignores_sigterm", what)
    _, printed = parent.communicate(timeout=PATIENCE)
    assert not alive(pid)
    assert ("the user's own mistake" in printed.decode()) is (what == "raise")


def test_the_child_imports_nothing_of_miner():
    for name in ("child.py", "command_child.py", "bindings_server.py", "ready_check.py", "run_marker.py"):
        source = (ROOT / "miner/core/engine" / name).read_text()
        assert "import miner" not in source
        assert "from miner" not in source


def test_specs_take_paths_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = EngineSpec(Path("m.gguf"), "m", 256, 1)
    assert json.loads(find_launcher().plan(spec, tmp_path).stdin)["values"]["model.path"] == str(tmp_path / "m.gguf")


@pytest.mark.parametrize(("kind", "fits"), [("CPU", False), ("GPU", True)])
def test_only_where_there_is_a_gpu_llama_cpp_looks_for_what_fits_on_it(kind: str, fits: bool):
    """It reads the model twice for that: a quarter of a cold start with processors only."""
    import enum

    from miner.core.engine import child

    kinds = enum.IntEnum(
        "ggml_backend_dev_type", {"GGML_BACKEND_DEVICE_TYPE_CPU": 0, "GGML_BACKEND_DEVICE_TYPE_GPU": 1}
    )
    device = {"type": kinds[f"GGML_BACKEND_DEVICE_TYPE_{kind}"]}
    parameters = SimpleNamespace(fit_params=None, hostnames=None)
    wheel = SimpleNamespace(get_device_info=lambda: [device], CommonParams=lambda: parameters, __version__="0")
    assert child._parameters(wheel, {"values": {}, "constants": {}, "socket": "/s"}) is parameters
    assert parameters.fit_params is fits


def test_the_real_wheel_knows_its_processor_for_one():
    import xllamacpp

    assert all("CPU" in repr(device["type"]) for device in xllamacpp.get_device_info() if device["name"] == "CPU")
