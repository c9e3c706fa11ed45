"""GPUs by stand-ins: a program called nvidia-smi, and the files that amdgpu shows."""

import sys
import time

import pytest

from miner.config.config import MinerConfig
from miner.core.engine.headroom import RunningEngine
from miner.core.engine.launchers import BinaryLauncher, LlamaCppPythonLauncher, XllamacppLauncher, find_launcher
from miner.core.llms.llamacpp.engine_pool import host_settings
from miner.core.llms.llamacpp.memory import measured_memory
from miner.core.llms.pool.memory_meter import MemoryMeter
from miner.core.models.memory import gpus
from miner.core.models.memory.available import available_memory
from miner.core.models.memory.gpus import find_gpus, metal_free

GIB = 1 << 30
PID = 1 << 30
"""Of no process that runs."""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A machine without GPUs and without anything that hides some."""
    for name in ("CUDA", "HIP", "ROCR"):
        monkeypatch.delenv(f"{name}_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(gpus, "_hung", {})
    (tmp_path / "bin").mkdir()
    return tmp_path


def program(root, name, script):
    (root / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
    (root / "bin" / name).chmod(0o755)


def nvidia(root, *cards):
    lines = "".join(f"{free}, {total}\\n" for free, total in cards)
    uuids = "".join(f"GPU-{number}abc\\n" for number in range(len(cards)))
    program(root, "nvidia-smi", f'case "$1" in *uuid*) printf "{uuids}";; *) printf "{lines}";; esac')


def nvidia_with_processes(root, *cards, processes=()):
    """`processes`: pid, card, MiB and name of each."""
    free = "".join(f"{free}, {total}\\n" for free, total in cards)
    uuids = "".join(f"GPU-{number}abc\\n" for number in range(len(cards)))
    usage = "".join(f"{pid}, GPU-{card}abc, {size}\\n" for pid, card, size, _ in processes)
    named = "".join(f"{pid}, {size}, {name}\\n" for pid, _, size, name in processes)
    program(
        root,
        "nvidia-smi",
        f'case "$1" in *process_name*) printf "{named}";; *gpu_uuid*) printf "{usage}";; *uuid*) printf "{uuids}";; '
        f'*) printf "{free}";; esac',
    )


def amd(root, *cards):
    for number, (total, used) in enumerate(cards):
        for what, value in (("total", total), ("used", used)):
            file = root / f"sys/class/drm/card{number}/device/mem_info_vram_{what}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{value}\n")
    (root / "sys/class/drm/card0-DP-1/device").mkdir(parents=True, exist_ok=True)


def test_none(root):
    assert find_gpus(root) == []


@pytest.mark.parametrize(
    ("visible", "free"),
    [
        (None, [80000, 1024, 40000]),
        ("2,0", [40000, 80000]),
        ("1", [1024]),
        ("", []),
        ("-1", []),
        ("0,7,1", [80000]),
        ("GPU-2abc,GPU-0", [40000, 80000]),
        ("GPU-none", []),
    ],
)
@pytest.mark.process
def test_nvidia(root, monkeypatch, visible, free):
    nvidia(root, (80000, 81559), (1024, 2048), (40000, 81559))
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.free >> 20 for gpu in find_gpus(root)] == free
    memory = available_memory(root=root)
    assert memory.gpu_kind == ("CUDA",) * len(free)
    assert not memory.unified


@pytest.mark.parametrize(("visible", "free"), [(None, [15, 0]), ("1", [0]), ("", [])])
def test_amd(root, monkeypatch, visible, free):
    amd(root, (16 * GIB, GIB), (8 * GIB, 9 * GIB))
    if visible is not None:
        monkeypatch.setenv("HIP_VISIBLE_DEVICES", visible)
    assert [gpu.free // GIB for gpu in find_gpus(root)] == free
    assert available_memory(root=root).gpu_kind == ("ROCm",) * len(free)


@pytest.mark.process
def test_apple(root, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(gpus.os, "uname", lambda: type("uname", (), {"machine": "arm64"}))
    report = "Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free:  1000.\nPages inactive: 500.\n"
    program(root, "vm_stat", f"cat <<'END'\n{report}END")
    assert metal_free() == 1500 * 16384
    memory = available_memory(root=root)
    assert memory.unified
    assert memory.available == 1500 * 16384
    assert memory.gpu_available == (1500 * 16384,)
    assert memory.gpu_kind == ("Metal",)


@pytest.mark.process
def test_a_program_that_hangs_is_waited_for_once(root, monkeypatch):
    monkeypatch.setattr(gpus, "GPU_TIMEOUT", 0.5)
    program(root, "nvidia-smi", f"echo once >> {root / 'asked'}; exec sleep 60")
    began = time.monotonic()
    for _ in range(10):
        assert find_gpus(root) == []
    assert (root / "asked").read_text().splitlines() == ["once"]
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("script", ["echo '80000, 81559'; exit 9", "echo 'N/A, [N/A]'", "echo 80000"])
@pytest.mark.process
def test_what_makes_no_sense_is_no_gpu(root, script):
    program(root, "nvidia-smi", script)
    assert find_gpus(root) == []


def test_which_engines_can_use_one(tmp_path):
    own = find_launcher()
    assert isinstance(own, XllamacppLauncher)
    assert not own.may_offload(None)  # the wheel of the index is for processors
    for name, text in (("plain", b"nothing"), ("cuda", b"x" * (1 << 20) + b"libcuda.so.1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lib.so").write_bytes(text)
        assert XllamacppLauncher(tmp_path / name).may_offload(None) is (name == "cuda")
    assert BinaryLauncher(tmp_path / "llama-server").may_offload(None)
    assert not BinaryLauncher(tmp_path / "llama-server").may_offload(0)
    bindings = LlamaCppPythonLauncher(tmp_path)
    assert (bindings.may_offload(None), bindings.may_offload(-1)) == (False, True)


@pytest.mark.process
def test_who_takes_a_gpus_memory(root):
    processes = [(7, 0, 1000, "/usr/bin/python3"), (8, 1, 9000, "/opt/train, v2"), (9, 1, "[N/A]", "x")]
    nvidia_with_processes(root, (1, 10000), (2, 10000), processes=processes)
    assert gpus.gpu_processes() == [
        gpus.GPUProcess(8, "train, v2", 9000 << 20),
        gpus.GPUProcess(7, "python3", 1000 << 20),
    ]
    assert gpus.gpu_memory_of({7, 8}) == (1000 << 20, 9000 << 20)


@pytest.mark.process
@pytest.mark.parametrize(
    ("processes", "available"),
    [
        ([(PID, 0, 3000, "engine"), (8, 1, 6000, "train")], (9000, 4000)),
        # The driver does not say it: what the engine counts for.
        ([], (8000, 6000)),
    ],
)
def test_what_engines_take_of_gpus_is_theirs(root, processes, available):
    nvidia_with_processes(root, (6000, 10000), (4000, 10000), processes=processes)
    running = [RunningEngine(PID, (2000 << 20, 2000 << 20))]
    found = measured_memory(MinerConfig(), running)
    assert found.gpu_available == tuple(size << 20 for size in available)


@pytest.mark.process
def test_a_gpu_that_others_fill_is_seen_and_they_are_named(root):
    processes = [(PID, 0, 3000, "engine"), (8, 0, 5000, "/opt/train")]
    nvidia_with_processes(root, (2000, 10000), processes=processes)
    meter = MemoryMeter(host_settings(MinerConfig(), [9000 << 20]))
    room = meter.headroom([RunningEngine(PID, (3000 << 20,))])
    assert room.gpus == (5000 << 20,)
    assert room.most_gpus == (9000 << 20,)
    assert "train (pid 8) with 4.88 GiB on a GPU" in room.others
