"""`miner backends`: what is there, what is not, and why."""

import itertools
import json
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

pytestmark = pytest.mark.process

HEADS = ["NAME", "STATE", "VERSION", "DISTRIBUTION", "CLASS"]


def third_party(directory: Path, name: str, target: str, source: str = "") -> None:
    """A distribution with one entry point, as an installer would leave it, in a directory of its own."""
    info = directory / f"{name}_pack-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-pack\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[inference.backends]\n{name} = {target}\n")
    (directory / f"{name}_module.py").write_text(source)


@pytest.fixture
def plugins(tmp_path) -> Path:
    """Echo works, broken does not import, alien is no backend, missing wants what is not installed."""
    directory = tmp_path / "plugins"
    third_party(
        directory, "echo", "echo_module:EchoService",
        "from miner.core.llms import LLMService\n"
        "class EchoService(LLMService):\n"
        "    def __init__(self, config): self.config = config\n"
        "    async def generate(self, prompt, model, max_tokens, temperature, top_p):\n"
        "        return f'{prompt}|{model}|{max_tokens}|{temperature}|{top_p}'\n"
        "    async def _get_model(self, model_name): pass\n",
    )  # fmt: skip
    third_party(directory, "broken", "broken_module:X", "raise RuntimeError('it is\\nbroken')\n")
    third_party(directory, "alien", "alien_module:X", "class X: pass\n")
    third_party(directory, "missing", "missing_module:X", "import not_installed_at_all\n")
    return directory


def path_with(directory: Path) -> str:
    return f"{ROOT}{':' if sys.platform != 'win32' else ';'}{directory}"


def test_the_table_is_aligned_and_marks_the_default(miner):
    done = miner("backends", LLM_BACKEND="ollama")
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    assert lines[0].split() == HEADS
    columns = [lines[0].index(head) for head in HEADS]
    rows = [line for line in lines[1:] if not line.startswith(" ")]
    assert [line.split()[0] for line in rows] == ["llamacpp", "ollama", "vllm", "openai", "pool"]
    assert "not set" in rows[3]
    assert "not set" in rows[4]
    for line in rows:
        assert all(line[at - 1] == " " and line[at] != " " for at in columns[1:])
    assert lines[2].startswith("ollama (default)  available  0.1.0")
    assert lines[2].endswith("OllamaService")
    assert "(default)" not in lines[1] + lines[3]
    assert [line for line in lines if len(line) > 80] == []


def test_third_party_backends_are_listed_after_ours_with_the_reason_below(miner, plugins):
    done = miner("backends", PYTHONPATH=path_with(plugins))
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    names = [line.split()[0] for line in lines[1:] if not line.startswith(" ")]
    assert names == ["llamacpp", "ollama", "vllm", "openai", "pool", "alien", "broken", "echo", "missing"]
    below = {line.split()[0]: after for line, after in itertools.pairwise(lines) if after.startswith("  ")}
    assert below == {
        "alien": "  it is not a subclass of miner.core.llms.LLMService",
        "broken": "  RuntimeError: it is broken",
        "openai": "  MINER_OPENAI_API_BASE is not set",
        "pool": "  there is no miner.toml; `miner config init` writes one",
        "missing": "  module 'not_installed_at_all' is missing: pip install not_installed_at_all",
    }
    (echo,) = [line.split() for line in lines if line.startswith("echo")]
    assert echo == ["echo", "available", "1.5", "echo-pack", "EchoService"]
    assert next(line.split() for line in lines if line.startswith("broken"))[1] == "unavailable"


def test_json(miner, plugins):
    done = miner("backends", "--json", PYTHONPATH=path_with(plugins), LLM_BACKEND="echo")
    told = json.loads(done.stdout)
    assert told["default"] == "echo"
    listed = {backend.pop("name"): backend for backend in told["backends"]}
    assert listed["echo"] == {
        "state": "available", "default": True, "version": "1.5", "distribution": "echo-pack",
        "class": "echo_module:EchoService", "reason": None,
    }  # fmt: skip
    assert listed["broken"]["state"] == "unavailable"
    assert listed["broken"]["reason"] == "RuntimeError: it is\nbroken"
    assert listed["vllm"]["class"] == "miner.core.llms.llm_vllm:VLLMService"


def test_what_to_install_where_an_engine_is_missing(miner):
    done = miner("backends", LLAMACPP_SERVER="/no/such/llama-server")
    lines = done.stdout.decode().splitlines()
    assert lines[1].split()[:3] == ["llamacpp", "(default)", "unavailable"]
    assert "/no/such/llama-server" in lines[2]


def test_a_missing_default_is_reported(miner):
    done = miner("backends", LLM_BACKEND="nope")
    assert done.returncode == 0
    assert done.stdout.decode().endswith("\n\nLLM_BACKEND=nope is not installed; llamacpp is used instead.\n")


def test_the_smallest_third_party_backend_answers(miner, plugins):
    done = miner("generate", "--backend", "echo", "hi", "--max-tokens", "9", PYTHONPATH=path_with(plugins))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hi|None|9|0.7|0.95\n", b"")
    done = miner("generate", "--system", "Be brief.", "hi", PYTHONPATH=path_with(plugins), LLM_BACKEND="echo")
    assert done.stdout == b"system: Be brief.\nuser: hi\nassistant:|None|512|0.7|0.95\n"


def test_parameters_of_a_generate_only_backend_are_refused(miner, plugins):
    done = miner("generate", "--backend", "echo", "--seed", "1", "hi", PYTHONPATH=path_with(plugins))
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"miner: --seed: echo does not support seed.\n")


def test_an_explicit_third_party_backend_that_is_broken_exits_2_with_the_reason(miner, plugins):
    done = miner("generate", "--backend", "broken", "hi", PYTHONPATH=path_with(plugins))
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"miner: Backend 'broken' is unavailable: RuntimeError: it is broken.\n")
