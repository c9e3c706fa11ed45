"""What processes use, and the cores that there are."""

import os
import subprocess
import sys
import time

import pytest

from miner.core.engine.procstat import _clock, _from_ps, physical_cores, process_usage


@pytest.mark.process
def test_usage_counts_children():
    child = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'x = bytearray(80_000_000); print(1, "
    child += "flush=True); sum(range(30_000_000)); input()'], stdin=subprocess.PIPE); input(); p.communicate(b'\\n')"
    with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        used = process_usage(parent.pid)
        assert used is not None
        assert used.resident > 80_000_000
        assert used.of_descendants().resident > 80_000_000 > used.own_resident > 0
        deadline = time.monotonic() + 60
        while (now := process_usage(parent.pid)) is None or now.cpu < used.cpu + 0.05:
            assert time.monotonic() < deadline
        assert now.of_descendants().cpu > now.own_cpu
        by_ps = _from_ps(parent.pid)  # of a process group
        assert by_ps is None or by_ps.own_resident <= by_ps.resident
        parent.communicate(b"\n")
    assert process_usage(parent.pid) is None


@pytest.mark.process
def test_usage_by_ps_agrees():
    ours, theirs = process_usage(os.getpid()), _from_ps(os.getpid())
    assert ours is not None
    assert theirs is not None
    assert 0.5 < theirs.resident / ours.resident < 2
    assert 0.5 < theirs.own_resident / ours.own_resident < 2
    assert [_clock(text) for text in ("0:01.50", "01:02:03", "2-00:00:01")] == [1.5, 3723, 172801]


@pytest.mark.process
def test_cores_are_those_that_we_may_use():
    assert 1 <= physical_cores() <= len(os.sched_getaffinity(0))
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    code += "from miner.core.engine.procstat import physical_cores; print(physical_cores())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
