"""The built-in backends keep the contract: llama.cpp on the real engine, Ollama on a server in its form in front
of the real engine, vLLM on a real vLLM server (`-m vllm`).
"""

from __future__ import annotations

import os

import pytest

from tests.conformance.running import ROOT, SENSE, conformance
from tests.servers.ollama_front import OllamaFront
from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.engine

# One thread: on a busy machine two of them wait for each other.
ENGINE = {"LLAMACPP_THREADS": "1", "LLAMACPP_CTX_SIZE": "2048", "LLAMACPP_PARALLEL": "4"}
TEMPLATES = ROOT / "tests" / "data" / "templates"


async def test_llamacpp(tmp_path):
    """With embeddings switched on; no template knows tools, so they are emulated. What needs no words is asked of a
    tiny model, in a tenth of the time.
    """
    write_tiny_model(tmp_path / "tiny.gguf")
    tiny = {"MODELS_DIR": str(tmp_path), "DEFAULT_MODEL": "tiny"}
    env = {**ENGINE, "LLAMACPP_POOLING": "mean"}
    status, output = await conformance(tmp_path, "llamacpp", "-k", f"not ({SENSE})", env=env | tiny)
    assert status == 0, output[-4000:]
    # One slot: what a prompt finds in the cache of another slot decides between two tokens that are almost alike.
    status, output = await conformance(tmp_path, "llamacpp", "-k", SENSE, env=env | {"LLAMACPP_PARALLEL": "1"})
    assert status == 0, output[-4000:]
    for capability in ("tools", "tool_choice", "embeddings"):
        assert f"{capability:<20} passed" in output


async def test_llamacpp_with_templates_for_tools_and_reasoning(tmp_path):
    """With templates of our own the tests of tools and reasoning are run too."""
    for template, words, capability in (("tools", "tool", "tool_choice"), ("think", "reasoning", "reasoning")):
        env = {**ENGINE, "LLAMACPP_CHAT_TEMPLATE": str(TEMPLATES / f"{template}.jinja")}
        status, output = await conformance(tmp_path, "llamacpp", "-k", words, env=env)
        assert status == 0, output[-4000:]
        assert "unsupported" not in output
        assert f"{capability:<20} passed" in output


async def test_a_table(tmp_path):
    """The pool keeps the contract of its models' backends, under the names of the file."""
    write_tiny_model(tmp_path / "tiny.gguf")
    (tmp_path / "miner.toml").write_text(
        '[models.small]\nfile = "tiny.gguf"\ncontext = 2048\nslots = 4\nthreads = 1\n'
        '[models.other]\nfile = "tiny.gguf"\ncontext = 1024\nthreads = 1\n[defaults]\nmodel = "small"\n'
    )
    status, output = await conformance(tmp_path, "pool", "-k", f"not ({SENSE})")
    assert status == 0, output[-4000:]


async def test_ollama(tmp_path):
    """Text, tools and reasoning each on the model that can."""
    async with OllamaFront(num_ctx=2048, parallel=4) as front:
        env = {"OLLAMA_BASE_URL": front.url}
        runs = [("smollm2", ""), ("smollm2-tools", "tool"), ("smollm2-think", "reasoning"), ("smollm2-embed", "embed")]
        for model, words in runs:
            status, output = await conformance(tmp_path, "ollama", "--miner-model", model, "-k", words, env=env)
            assert status == 0, output[-4000:]


@pytest.mark.vllm
async def test_vllm(tmp_path):
    """A server for text, and one for embeddings."""
    status, output = await conformance(tmp_path, "vllm", env={"VLLM_API_BASE": os.environ["VLLM_API_BASE"]})
    assert status == 0, output[-4000:]
    assert "tool_choice          passed" in output
    pooling = os.environ.get("MINER_VLLM_POOLING_BASE")
    if pooling:
        status, output = await conformance(tmp_path, "vllm", "-k", "embed", env={"VLLM_API_BASE": pooling})
        assert status == 0, output[-4000:]
        assert "embeddings           passed" in output
