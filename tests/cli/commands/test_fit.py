"""`miner fit`: the table, the exit status, and how settings and options meet."""

import json
import os

import pytest

from miner.cli import main
from tests.core.models.conftest import make_gguf


@pytest.fixture
def miner(tmp_path, monkeypatch, capsys):
    """Run the command; gives exit status, standard output and standard error."""
    for name in list(os.environ):
        if name.startswith("LLAMACPP_") or name in ("LLM_BACKEND", "MODEL_PATH", "MODELS_DIR", "DEFAULT_MODEL"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def run(*arguments):
        status = main.run(["fit", *arguments])
        written = capsys.readouterr()
        return status, written.out, written.err

    return run


def test_table(miner):
    status, out, err = miner("demo", "--ctx", "4096", "--parallel", "4")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "demo: 4 slots of 4096 tokens, KV cache in f16"
    rows = dict(line.rsplit("  ", 1) for line in lines[1:-2])
    assert {name.strip(): size.strip() for name, size in rows.items()}["KV cache"] == "360 MiB"
    assert lines[-2] == "fits: yes"
    assert lines[-1] == "largest context with as many slots: 8192 tokens each"


def test_options_and_settings(miner, monkeypatch):
    monkeypatch.setenv("LLAMACPP_CTX_SIZE", "1024")
    monkeypatch.setenv("LLAMACPP_PARALLEL", "2")
    described = json.loads(miner("--json")[1])
    assert described["name"] == "demo"
    assert (described["load"]["ctx_size"], described["load"]["parallel"]) == (1024, 2)
    assert described["bytes"]["kv_cache"] == 45 << 20
    described = json.loads(miner("--json", "--ctx", "2048", "--kv-type", "q8_0", "--parallel", "1")[1])
    assert described["bytes"]["kv_cache"] == (45 << 20) * 34 // 64
    assert described["fits"] is True


def test_what_does_not_fit(miner, tmp_path):
    wide = {
        "llama.block_count": 100,
        "llama.embedding_length": 65536,
        "llama.attention.head_count": 64,
        "llama.attention.head_count_kv": 64,
        "llama.context_length": 1 << 20,
    }
    (tmp_path / "wide.gguf").write_bytes(make_gguf(wide))
    status, out, err = miner("./wide.gguf", "--ctx", str(1 << 20), "--parallel", "1")
    assert status == 1
    assert "fits: no" in out
    assert "The model needs" in err
    assert "is free" in err


@pytest.mark.process
def test_cards_are_shown(miner, tmp_path, monkeypatch):
    """By a stand-in for nvidia-smi: a model larger than memory fits where a card holds it."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nprintf '900000, 1000000\\n2000, 4000\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    side = 1 << 16  # 16 GiB a layer
    tensors = {"token_embd.weight": (64, 64), "output.weight": (64, 64)}
    tensors |= {f"blk.{layer}.ffn_up.weight": (side, side) for layer in range(40)}
    file = tmp_path / "huge.gguf"
    file.write_bytes(make_gguf({"llama.block_count": 40, "llama.context_length": 4096}, tensors))
    os.truncate(file, 41 * 4 * side * side)
    status, out, err = miner("./huge.gguf")
    assert status == 0
    assert "fits: yes" in out
    rows = {line.rsplit("  ", 1)[0].strip(): line.rsplit("  ", 1)[1].strip() for line in out.splitlines()[1:-2]}
    assert rows["on GPU 0"].startswith("640 GiB")
    assert rows["free on GPU 1 (CUDA)"] == "1.95 GiB"
    assert "runs on the CPU only" in err
    monkeypatch.setenv("LLAMACPP_N_GPU_LAYERS", "0")
    assert miner("./huge.gguf")[0] == 1
    monkeypatch.delenv("LLAMACPP_N_GPU_LAYERS")
    program.write_text("#!/bin/sh\nprintf '2000, 1000000\\n'\n")
    assert miner("./huge.gguf")[0] == 1


def test_more_than_it_was_trained_for(miner):
    status, out, err = miner("demo", "--ctx", "100000", "--parallel", "1")
    assert status == 0
    assert "trained for 8192 tokens" in err
    assert "demo: 1 slot of 8192 tokens" in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("nothing",), "There is no model 'nothing'"),
        (("demo", "--ctx", "many"), "--ctx 'many'"),
        (("demo", "--parallel", "0"), "--parallel "),
        (("demo", "--kv-type", "q9"), "--kv-type 'q9'"),
    ],
)
def test_wrong_usage(miner, arguments, text):
    status, _, err = miner(*arguments)
    assert status == 2
    assert text in err
