"""What processes take: by files as Linux shows them, and by a real child that allocates memory."""

import subprocess
import sys

import pytest

from miner.core.models.memory.processes import Process, held_memory, largest_processes
from tests.core.models.memory.test_available import put

MIB = 1 << 20
GIB = 1 << 30


def process(root, pid, name, anon, *, shared=0, files=0, children=()):
    put(
        root,
        f"proc/{pid}/status",
        f"Name:\t{name}\nVmRSS:\t9 kB\nRssAnon:\t{anon >> 10} kB\nRssFile:\t{files >> 10} kB\n"
        f"RssShmem:\t{shared >> 10} kB",
    )
    put(root, f"proc/{pid}/task/{pid}/children", " ".join(map(str, children)))


@pytest.fixture
def root(tmp_path):
    process(tmp_path, 10, "engine", 3 * GIB, files=9 * GIB, shared=GIB, children=[11, 12])
    process(tmp_path, 11, "worker", GIB, shared=GIB)
    process(tmp_path, 12, "worker", GIB, shared=GIB)
    process(tmp_path, 20, "python3", 3 * GIB)
    process(tmp_path, 21, "browser", 6 * GIB)
    process(tmp_path, 22, "shell", 10 * MIB)
    put(tmp_path, "proc/1/status", "Name:\tkthreadd")
    return tmp_path


def test_files_do_not_count_and_shared_memory_counts_once(root):
    assert held_memory([10], root) == 6 * GIB
    assert held_memory([10, 20], root) == 9 * GIB
    assert held_memory([99], root) == 0


def test_the_largest_others(root):
    total = 64 * GIB
    assert largest_processes(total, without=[10], root=root) == [
        Process(21, "browser", 6 * GIB),
        Process(20, "python3", 3 * GIB),
    ]
    assert [found.pid for found in largest_processes(total, root=root)] == [21, 10, 20]


@pytest.mark.process
def test_a_child_that_allocates_is_seen():
    size = 300 * MIB
    code = f"block = bytearray({size}); block[::4096] = b'x' * len(block[::4096]); print('done', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline().strip() == b"done"
        held = held_memory([child.pid])
        named = largest_processes(50 * size)
        child.communicate(b"\n", timeout=30)
    assert size <= held < size + 50 * MIB
    assert child.pid in {found.pid for found in named} or len(named) == 3
