"""`miner vllm`: the command for a shell, its settings, and what --run does."""

import json
import shlex

import pytest

from tests.cli.conftest import LONG
from tests.paths import ROOT

pytestmark = pytest.mark.process

HEAD = "python -m vllm.entrypoints.openai.api_server"


def printed(done) -> str:
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout.decode().removesuffix("\n")


def test_the_whole_command_with_its_defaults(miner):
    assert printed(miner("vllm", "--model", "a/b")) == (
        f"{HEAD} --model a/b --tensor-parallel-size 1 --gpu-memory-utilization 0.9 --port 8000"
    )


def test_environment_over_dotenv_over_default_and_arguments_over_all(miner):
    (miner.directory / ".env").write_text(
        "MINER_TENSOR_PARALLEL_SIZE=2\nminer_gpu_memory_utilization=0.5\nMINER_MAX_MODEL_LEN=1000\nDEFAULT_MODEL=from/dotenv\n"
    )
    assert printed(miner("vllm", MINER_GPU_MEMORY_UTILIZATION="0.25")) == (
        f"{HEAD} --model from/dotenv --tensor-parallel-size 2 --gpu-memory-utilization 0.25 --max-model-len 1000"
        " --port 8000"
    )
    given = ["--tensor-parallel-size", "4", "--gpu-memory-utilization", "1", "--max-model-len", "77", "--port", "9"]
    assert printed(miner("vllm", "--model", "m", *given, "--host", "127.0.0.1", MINER_TENSOR_PARALLEL_SIZE="3")) == (
        f"{HEAD} --model m --tensor-parallel-size 4 --gpu-memory-utilization 1 --max-model-len 77"
        " --host 127.0.0.1 --port 9"
    )


@pytest.mark.parametrize(
    ("base", "port"),
    [("http://localhost:8123/v1", "8123"), ("http://gpu-box/v1", "8000"), ("https://[::1]:7000/v1", "7000")],
)
def test_the_port_is_that_of_the_api_base(miner, base, port):
    assert printed(miner("vllm", "--model", "m", VLLM_API_BASE=base)).endswith(f" --port {port}")


def test_it_is_quoted_for_a_shell_and_other_options_go_on(miner):
    line = printed(miner("vllm", "--model", "my models/a", "--", "--chat-template", "it's here.jinja", "-O3"))
    assert "--model 'my models/a'" in line
    assert shlex.split(line)[-3:] == ["--chat-template", "it's here.jinja", "-O3"]


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        ([], {}, "No model given.\n  Name one with --model, or set DEFAULT_MODEL.\n"),
        (["--model", "m", "--port", "9x"], {}, "--port must be an integer from 1 to 65535, not '9x'.\n"),
        (["--model", "m", "--port", "0"], {}, "--port must be an integer from 1 to 65535, not '0'.\n"),
        (["--model", "m"], {"MINER_TENSOR_PARALLEL_SIZE": "0"}, "MINER_TENSOR_PARALLEL_SIZE='0': "),
        (["--model", "m"], {"MINER_GPU_MEMORY_UTILIZATION": "1.5"}, "MINER_GPU_MEMORY_UTILIZATION='1.5': "),
        (["--model", "m"], {"MINER_GPU_MEMORY_UTILIZATION": "nan"}, "MINER_GPU_MEMORY_UTILIZATION='nan': "),
        (["--model", "m", "--max-model-len", "long"], {}, "--max-model-len 'long': "),
        (["--model", "m", "oops"], {}, "Unexpected argument 'oops'.\n  Set the model with --model"),
        (["--model", "m", "--enforce-eager"], {}, "Unknown option --enforce-eager.\n"),
        (["--model", "m"], {"VLLM_API_BASE": "localhost:8000"}, "VLLM_API_BASE='localhost:8000': "),
        (["--model", "m"], {"VLLM_API_BASE": "http://localhost:99999/v1"}, "VLLM_API_BASE"),
    ],
)
def test_what_is_wrong_exits_2(miner, arguments, settings, said):
    done = miner("vllm", *arguments, **settings)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().startswith(f"miner: {said}")
    assert b"Traceback" not in done.stderr


def test_run_without_vllm_says_what_to_install(miner):
    done = miner("vllm", "--model", "m", "--run")
    assert done.returncode == 2
    assert done.stderr.decode() == (
        'miner: vLLM is not installed.\n  Install it with: pip install "llm-service-backends[vllm]"\n'
    )


@pytest.fixture
def fake_vllm(tmp_path) -> str:
    """A package `vllm` whose server prints what it was started with, in place of the real one."""
    package = tmp_path / "site" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for directory in (package, package.parent, package.parent.parent):
        (directory / "__init__.py").touch()
    (package / "api_server.py").write_text(
        "import os, sys\nprint(os.getpid(), sys.argv[1:], os.environ.get('VLLM_API_KEY'))\nsys.exit(7)\n"
    )
    return f"{ROOT}:{tmp_path / 'site'}"


def test_run_becomes_the_server_with_the_key_in_its_environment_alone(miner, fake_vllm):
    (miner.directory / ".env").write_text("VLLM_API_KEY=sesame-open-1234\n")
    process = miner.start("vllm", "--model", "m", "--run", PYTHONPATH=fake_vllm)
    out, err = (text.decode() for text in process.communicate(timeout=LONG))
    assert process.returncode == 7  # the server's own
    command, started = out.splitlines()
    assert "sesame" not in command
    arguments = shlex.split(command)[3:]
    assert started == f"{process.pid} {arguments} sesame-open-1234"
    assert err == "miner: The server requires VLLM_API_KEY.\n"


def test_as_json(miner):
    command = json.loads(printed(miner("vllm", "-m", "a b", "--json", "--", "--seed", "1")))
    assert command["command"][:4] == ["python", "-m", "vllm.entrypoints.openai.api_server", "--model"]
    assert command["command"][4] == "a b"
    assert command["command"][-2:] == ["--seed", "1"]
    assert command["run"] is False
