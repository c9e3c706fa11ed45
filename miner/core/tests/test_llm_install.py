"""Is miner installed as its documents say? Entry points, extras, typing, and what importing it loads."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution, entry_points, metadata
from importlib.resources import files

import pytest

from miner.core.llms import BACKENDS, LLMService, get_backends

DISTRIBUTION = "llm-service-backends"
BUILT_IN = {
    "llamacpp": "miner.core.llms.llm_llamacpp:LlamaCppService",
    "ollama": "miner.core.llms.llm_ollama:OllamaService",
    "vllm": "miner.core.llms.llm_vllm:VLLMService",
}


@pytest.mark.parametrize(("name", "target"), BUILT_IN.items())
def test_backend_is_an_entry_point(name, target):
    (point,) = entry_points(group="inference.backends", name=name)
    assert point.value == target
    assert issubclass(point.load(), LLMService)


def test_all_built_in_backends_can_be_used():
    assert list(get_backends())[:3] == list(BUILT_IN)
    assert set(BUILT_IN) <= set(BACKENDS)


@pytest.mark.parametrize("extra", ["vllm", "ollama", "llamacpp", "llama-cpp-python", "serve", "test", "all"])
def test_extra_exists(extra):
    assert extra in metadata(DISTRIBUTION).get_all("Provides-Extra")


def test_no_engine_is_a_base_dependency():
    base = [line for line in distribution(DISTRIBUTION).requires or () if "extra ==" not in line]
    assert base
    assert not any(word in line for line in base for word in ("torch", "vllm", "llama", "ollama", "openai"))


def test_package_is_typed():
    assert files("miner").joinpath("py.typed").is_file()


@pytest.mark.parametrize("command", [["-m", "miner"], ["-c", "from miner.cli.main import run; run()"]])
@pytest.mark.process
def test_command_answers(command):
    done = subprocess.run([sys.executable, *command, "--version"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert distribution(DISTRIBUTION).version in done.stdout


@pytest.mark.process
def test_importing_loads_no_engine_and_no_settings_library():
    heavy = ("xllamacpp", "llama_cpp", "vllm", "torch", "openai", "ollama", "pydantic")
    code = f"import sys, miner.core.llms; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
