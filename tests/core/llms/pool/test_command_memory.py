"""What a command is booked for before it runs."""

import json
import os

import pytest

from miner.config.file.schema import Backend
from miner.core.engine.command import CommandSpec
from miner.core.llms.pool.command_engine import CommandSource, command_spec
from miner.core.llms.pool.command_memory import Footprint, FootprintFile, vllm_gpu_memory
from miner.core.models.memory.available import Memory
from miner.core.models.memory.gpus import gpu_memory_of

GIB = 1 << 30


def spec(*options, **env):
    return CommandSpec("gpu", ("vllm", "serve", "m", "--port", "${PORT}", *options), 8, env=tuple(env.items()))


@pytest.mark.parametrize(
    ("options", "env", "taken"),
    [
        ((), {}, (0.92, 0, 0)),
        (("--gpu-memory-utilization", "0.5"), {}, (0.5, 0, 0)),
        (("--gpu_memory_utilization=0.5", "--gpu-memory-utilization=0.25"), {}, (0.25, 0, 0)),
        (("-tp", "2", "--gpu-memory-utilization", "0.5"), {}, (0.5, 0.5, 0)),
        (("--tensor-parallel-size=2", "-dp", "2"), {}, (0.92, 0.92, 0.92)),
        (("-dp", "8", "--data-parallel-size-local", "1"), {}, (0.92, 0, 0)),
        ((), {"CUDA_VISIBLE_DEVICES": "2"}, (0, 0, 0.92)),
        (("-pp", "2"), {"CUDA_VISIBLE_DEVICES": "2,0"}, (0.92, 0, 0.92)),
        ((), {"CUDA_VISIBLE_DEVICES": "GPU-1234"}, None),
        (("--kv-cache-memory-bytes", "1G"), {}, None),
        (("--gpu-memory-utilization", "much"), {}, None),
    ],
)
def test_a_vllm_takes_what_its_options_say(options, env, taken):
    totals = (10 * GIB, 20 * GIB, 40 * GIB)
    expected = None if taken is None else tuple(int(part * total) for part, total in zip(taken, totals, strict=True))
    assert vllm_gpu_memory(spec(*options, **env), totals) == expected
    assert vllm_gpu_memory(spec(*options, **env), ()) is None


def test_declared_then_options_then_the_last_run(tmp_path):
    file = FootprintFile(tmp_path / "deep" / "commands.json")
    budget = Memory(GIB, GIB, gpu_available=(9 * GIB,), gpu_total=(10 * GIB,))

    def memory_of(kind, **keys):
        table = Backend(kind=kind, command=list(spec().argv), **keys)
        return CommandSource(table, lambda: budget, file).memory_of(spec())

    assert memory_of("openai") == (None, ())
    assert memory_of("vllm") == (None, (int(9.2 * GIB),))
    file.put(spec(), Footprint(5, (6,)))
    assert memory_of("openai") == (5, (6,))
    assert memory_of("vllm") == (5, (int(9.2 * GIB),))
    assert memory_of("vllm", memory="1MiB", gpu_memory=["2MiB"]) == (1 << 20, (2 << 20,))
    assert file.get(spec("--other")) is None
    assert "${PORT}" not in json.loads(file.path.read_text()), "keys are hashes: an environment may hold secrets"


@pytest.mark.parametrize("text", ["", "[]", '{"x": 1}', "\0"])
def test_a_file_that_cannot_be_read_is_no_error(tmp_path, text):
    file = FootprintFile(tmp_path / "commands.json")
    file.path.write_text(text)
    assert file.get(spec()) is None
    file.put(spec(), Footprint(1))
    assert file.get(spec()) == Footprint(1)


@pytest.mark.process
@pytest.mark.parametrize(("visible", "taken"), [(None, (3 << 20, 4 << 20)), ("1", (4 << 20,)), ("GPU-a", (3 << 20,))])
def test_what_processes_take_of_gpus(tmp_path, monkeypatch, visible, taken):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        '#!/bin/sh\ncase "$*" in\n*compute-apps*) printf \'7, GPU-a, 1\\n8, GPU-a, 2\\n8, GPU-b, 4\\n9, GPU-b, 8\\n'
        "7, GPU-b, [N/A]\\n';;\n*uuid*) printf 'GPU-a\\nGPU-b\\n';;\nesac\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_memory_of({7, 8}) == taken


def test_defaults_by_kind(tmp_path):
    def of(kind, **keys):
        return command_spec("b", Backend(kind=kind, command=["x", "${PORT}"], **keys), tmp_path, None)

    assert [of(kind).ready for kind in ("vllm", "ollama", "openai")] == [
        ("/health",), ("/api/version",), ("/health", "/v1/models"),
    ]  # fmt: skip
    assert of("openai", ready="/up").ready == ("/up",)
    assert [of(kind).stop_signal for kind in ("vllm", "llamacpp", "openai")] == ["SIGTERM", "SIGINT", "SIGTERM"]
    assert of("vllm", directory="sub").directory == tmp_path / "sub"
    assert of("vllm", concurrency=7).parallel == 7
