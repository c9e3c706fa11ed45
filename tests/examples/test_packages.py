"""The example packages, as their author would ship them: built, installed into a fresh environment, used."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.running import SENSE
from tests.servers.llama_runner import LlamaRunner, RunnerConfig, demo_model
from tests.servers.openai_stub import StubServer
from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A virtual environment with miner and both example packages, and pytest for the conformance suite."""
    directory = tmp_path_factory.mktemp("fresh")
    python = str(directory / "env" / "bin" / "python")
    packages = ["pytest", str(ROOT), *(str(ROOT / "examples" / f"{name}-backend") for name in ("echo", "lmstudio"))]
    if uv := shutil.which("uv"):  # a few seconds, where pip takes half a minute
        commands = [
            [uv, "venv", "-q", "--no-project", "--python", sys.executable, str(directory / "env")],
            [uv, "pip", "install", "-q", "--python", python, *packages],
        ]
    else:
        commands = [
            [sys.executable, "-m", "venv", str(directory / "env")],
            [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages],
        ]
    for command in commands:
        subprocess.run(command, check=True, timeout=400, cwd=directory)
    return directory


def run(directory, *command, env=None, stdin=None):
    """Exit status, standard output and standard error of a program of that environment."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [directory / "env" / "bin" / command[0], *command[1:]], capture_output=True, text=True, timeout=300,
        cwd=directory,
        env={**environment, **(env or {})}, input=stdin,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_the_smallest_backend_is_listed_and_answers(environment):
    status, out, _ = run(environment, "miner", "backends")
    assert status == 0
    assert "echo" in out
    assert "miner-echo" in out
    status, out, err = run(environment, "miner", "generate", "Hello there, how are you", "--backend", "echo")
    assert (status, out.strip()) == (0, "Hello there, how are you"), err
    status, out, _ = run(environment, "miner", "generate", "Hello", "--backend", "echo", "--model", "shout")
    assert (status, out.strip()) == (0, "HELLO")
    status, out, _ = run(environment, "miner", "generate", "a b c", "--backend", "echo", "--json", "--max-tokens", "2")
    assert json.loads(out)["content"] == "a b"


def test_the_smallest_backend_says_what_it_cannot(environment):
    status, out, err = run(environment, "miner", "generate", "Hello", "--backend", "echo", "--seed", "3")
    assert (status, out) == (2, "")
    assert "seed" in err
    status, out, err = run(environment, "miner", "generate", "Hello", "--backend", "echo", "--model", "whisper")
    assert status == 2
    assert "whisper" in err


def test_the_smallest_backend_is_chosen_by_the_setting(environment):
    status, out, err = run(environment, "miner", "generate", "Hi", env={"LLM_BACKEND": "echo"})
    assert (status, out.strip()) == (0, "Hi"), err


async def test_both_are_kinds_of_a_file(environment, tmp_path):
    async with StubServer(["m"], api_key="secret", reply="From the desk.") as server:
        file = tmp_path / "both.toml"
        file.write_text(
            '[backends.e]\nkind = "echo"\n[models.loud]\nbackend = "e"\nname = "shout"\n'
            f'[backends.desk]\nkind = "lmstudio"\nurl = "{server.v1}"\nplain_key = "secret"\n'
            '[models.desk]\nbackend = "desk"\nname = "m"\n'
        )
        for model, text in (("loud", "HELLO"), ("desk", "From the desk.")):
            command = ("miner", "generate", "Hello", "--config", str(file), "--model", model)
            status, out, err = await asyncio.to_thread(run, environment, *command)
            assert (status, out.strip()) == (0, text), err


def test_the_smallest_backend_keeps_the_contract(environment):
    status, out, _ = run(environment, "pytest", "--pyargs", "miner.conformance", "--miner-backend", "echo", "-q")
    assert status == 0, out[-3000:]
    assert "capabilities of echo" in out


@pytest.mark.parametrize("model", ["tiny", "demo"])
async def test_the_fuller_backend_keeps_the_contract(environment, tmp_path, model):
    """Over a real server that speaks OpenAI's wire; only what needs words is asked of the larger model."""
    path = demo_model() if model == "demo" else write_tiny_model(tmp_path / "tiny.gguf")
    # One slot where words are compared: another slot's cache would decide between two tokens that are almost alike.
    runner = await LlamaRunner.start(RunnerConfig(path=str(path), num_ctx=2048, parallel=1 if model == "demo" else 8))
    try:
        env = {"LMSTUDIO_API_BASE": f"{str(runner._session._base_url).rstrip('/')}/v1"}
        command = ("pytest", "--pyargs", "miner.conformance", "--miner-backend", "lmstudio", "-q")
        asked = SENSE if model == "demo" else f"not ({SENSE})"
        status, out, _ = await asyncio.to_thread(run, environment, *command, "-k", asked, env=env)
    finally:
        await runner.stop()
    assert status == 0, out[-3000:]
    assert ("json_schema          passed" if model == "demo" else "seed                 passed") in out
