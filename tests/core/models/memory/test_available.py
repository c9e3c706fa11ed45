"""What is free, from the files that Linux shows and from a stand-in for nvidia-smi."""

import time
from pathlib import Path

import pytest

from miner.core.models.memory import gpus
from miner.core.models.memory.available import available_memory

GIB = 1 << 30


def put(root: Path, path: str, content: object) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(f"{content}\n")


@pytest.fixture
def root(tmp_path):
    """A machine with 16 GiB, of which 10 are available, and no cgroups."""
    put(tmp_path, "proc/meminfo", f"MemTotal: {16 << 20} kB\nMemFree: {1 << 20} kB\nMemAvailable: {10 << 20} kB")
    return tmp_path


def free(root):
    found = available_memory(root=root, gpus=False)
    return found.available, found.total


def test_this_machine():
    found = available_memory()
    assert 0 < found.available < found.total
    assert len(found.gpu_available) == len(found.gpu_total)


def test_machine(root):
    assert free(root) == (10 * GIB, 16 * GIB)


def test_second_version_of_control_groups(root):
    put(root, "proc/self/cgroup", "0::/a/b")
    put(root, "sys/fs/cgroup/a/b/memory.max", "max")
    put(root, "sys/fs/cgroup/a/b/memory.current", GIB)
    assert free(root) == (10 * GIB, 16 * GIB)
    put(root, "sys/fs/cgroup/a/b/memory.max", 6 * GIB)
    assert free(root) == (5 * GIB, 6 * GIB)
    put(root, "sys/fs/cgroup/a/b/memory.stat", f"anon 5\ninactive_file {GIB // 4}\nactive_file {GIB // 4}")
    assert free(root) == (5 * GIB + GIB // 2, 6 * GIB)
    put(root, "sys/fs/cgroup/a/memory.max", 4 * GIB)
    put(root, "sys/fs/cgroup/a/memory.current", 3 * GIB)
    assert free(root) == (GIB, 4 * GIB)
    put(root, "sys/fs/cgroup/a/memory.current", 5 * GIB)
    assert free(root) == (0, 4 * GIB)


def test_inside_a_container_whose_path_is_the_hosts(root):
    put(root, "proc/self/cgroup", "0::/docker/0123")
    put(root, "sys/fs/cgroup/memory.max", 2 * GIB)
    put(root, "sys/fs/cgroup/memory.current", GIB)
    assert free(root) == (GIB, 2 * GIB)


def test_first_version_of_control_groups(root):
    put(root, "proc/self/cgroup", "9:cpu:/\n4:memory:/job\n0::/")
    put(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", 9223372036854771712)
    put(root, "sys/fs/cgroup/memory/memory.usage_in_bytes", 12 * GIB)
    assert free(root) == (10 * GIB, 16 * GIB)
    put(root, "sys/fs/cgroup/memory/job/memory.limit_in_bytes", 3 * GIB)
    put(root, "sys/fs/cgroup/memory/job/memory.usage_in_bytes", 2 * GIB)
    put(root, "sys/fs/cgroup/memory/job/memory.stat", f"inactive_file 1\ntotal_inactive_file {GIB}")
    assert free(root) == (2 * GIB, 3 * GIB)


def test_a_system_without_such_files(tmp_path):
    available, total = free(tmp_path)
    assert available is None
    assert total is None or total > 0


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Put a program of that name first on the path."""

    def install(script):
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    return install


@pytest.mark.process
def test_gpus(root, nvidia_smi):
    nvidia_smi('[ "$1" = --query-gpu=memory.free,memory.total ] && printf "80000, 81559\\n1024, 2048\\n"')
    found = available_memory(root=root)
    assert found.gpu_available == (80000 << 20, 1 << 30)
    assert found.gpu_total == (81559 << 20, 2 << 30)


@pytest.mark.parametrize(
    "script", ["exit 9", "echo 'Failed to initialize NVML: Driver mismatch'", "printf '\\377\\376'"]
)
@pytest.mark.process
def test_a_broken_driver_means_no_gpus(root, nvidia_smi, script):
    nvidia_smi(script)
    assert available_memory(root=root).gpu_available == ()


@pytest.mark.process
def test_a_hanging_driver_is_not_waited_for(root, nvidia_smi, monkeypatch):
    monkeypatch.setattr(gpus, "GPU_TIMEOUT", 0.3)
    nvidia_smi("exec sleep 60")
    before = time.monotonic()
    assert available_memory(root=root).gpu_available == ()
    assert time.monotonic() - before < 30
