"""The small parts of the supervision: the log's end, the value that arrives once, reasons, what a process uses."""

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time

import pytest

from miner.core.engine.diagnosis import check_model_file, describe_exit, explain
from miner.core.engine.logtail import LogTail
from miner.core.engine.procstat import _clock, _from_ps, physical_cores, usage
from miner.core.engine.shared_future import SharedFuture


def test_log_lines_survive_any_cut():
    whole = b"one\n\ntwo \xff three\r\nfour\n" * 3
    for size in range(1, len(whole)):
        tail = LogTail("x")
        for start in range(0, len(whole), size):
            tail.feed(whole[start : start + size])
        assert tail.lines() == ["one", "two \ufffd three", "four"] * 3


def test_the_log_is_bounded_in_lines_and_bytes():
    tail = LogTail("x", max_lines=5, max_bytes=100)
    for number in range(50):
        tail.feed(f"line {number}\n".encode())
    assert tail.lines() == [f"line {number}" for number in range(45, 50)]
    tail.feed(b"a" * 40 + b"\n")
    tail.feed(b"b" * 70 + b"\n")
    assert tail.lines() == ["b" * 70]
    tail.feed(b"c" * 1000)
    assert tail.lines() == ["b" * 70, "c" * 100]
    tail.close()
    assert tail.lines() == ["c" * 100]


def test_two_pipes_do_not_mix_within_a_line():
    tail = LogTail("x")
    tail.feed(b"err", "stderr")
    tail.feed(b"out", "stdout")
    tail.feed(b"or\n", "stderr")
    tail.feed(b"put\n", "stdout")
    assert tail.lines() == ["error", "output"]


def test_each_line_is_logged_at_debug(caplog):
    caplog.set_level(logging.DEBUG, "miner.engine")
    LogTail("demo").feed(b"a\nb\n")
    assert [record.message for record in caplog.records] == ["demo: a", "demo: b"]


async def test_a_value_from_another_thread_wakes_all():
    shot = SharedFuture()
    waiters = [asyncio.create_task(shot.wait()) for _ in range(10)]
    await asyncio.sleep(0)
    threading.Thread(target=shot.set, args=("yes",)).start()
    assert await asyncio.gather(*waiters) == ["yes"] * 10
    shot.set("no")
    assert await shot.wait() == "yes"
    assert shot.wait_blocking(0) == "yes"


def test_a_waiter_on_a_closed_loop_is_no_harm():
    shot = SharedFuture()
    loop = asyncio.new_event_loop()
    task = loop.create_task(shot.wait())
    loop.run_until_complete(asyncio.sleep(0))
    waiters = set(shot._waiters)
    assert len(waiters) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    shot._waiters |= waiters  # as if the loop had been closed in the middle of it
    loop.close()
    shot.set("value")
    assert shot.value == "value"


@pytest.mark.process
def test_usage_counts_children():
    child = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'x = bytearray(80_000_000); print(1, "
    child += "flush=True); sum(range(30_000_000)); input()'], stdin=subprocess.PIPE); input(); p.communicate(b'\\n')"
    with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        used = usage(parent.pid)
        assert used is not None
        assert used.resident > 80_000_000
        deadline = time.monotonic() + 60
        while (now := usage(parent.pid)) is None or now.cpu < used.cpu + 0.05:
            assert time.monotonic() < deadline
        parent.communicate(b"\n")
    assert usage(parent.pid) is None


@pytest.mark.process
def test_usage_by_ps_agrees():
    ours, theirs = usage(os.getpid()), _from_ps(os.getpid())
    assert ours is not None
    assert theirs is not None
    assert 0.5 < theirs.resident / ours.resident < 2
    assert [_clock(text) for text in ("0:01.50", "01:02:03", "2-00:00:01")] == [1.5, 3723, 172801]


@pytest.mark.process
def test_cores_are_those_that_we_may_use():
    assert 1 <= physical_cores() <= len(os.sched_getaffinity(0))
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    code += "from miner.core.engine.procstat import physical_cores; print(physical_cores())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("lines", "status", "says"),
    [
        (["0.00 E ggml_aligned_malloc: insufficient memory (attempted to allocate 65919.38 MB)"], 1, "65919.38 MB"),
        (["terminate called after throwing an instance of 'std::bad_alloc'"], -6, "not enough memory"),
        (["ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory"], 1, "not enough memory"),
        (["E srv start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 1"], 1, "address is taken"),
        (["error: invalid argument: --no-such"], 1, "does not know the option --no-such"),
        (["llama-server: error while loading shared libraries: libllama.so: no"], 127, "libllama.so"),
        (["E gguf_init_from_file: failed to open GGUF file '/m' (Permission denied)"], 1, "/m cannot be opened: Perm"),
        (["error loading model: error loading model vocabulary: unknown pre-tokenizer"], 1, "unknown pre-tokenizer"),
        (["an old error: cudaMalloc failed"], -9, "want of memory"),
        ([], -4, "processor lacks instructions"),
        ([], -11, "memory that is not its own"),
        ([], -7, "cut or changed"),
        (["some words"], 3, "its last words: some words"),
        ([], 0, "it said nothing"),
        (["{braces} error {0}"], 1, "{braces} error {0}"),
    ],
)
def test_reasons_in_plain_words(lines, status, says):
    assert says in explain(lines, status).text


def test_exits_have_names():
    assert [describe_exit(status) for status in (0, 3, -9, -6, -250, None)] == [
        "exit status 0", "exit status 3", "killed by SIGKILL", "killed by SIGABRT", "killed by signal 250",
        "not running",
    ]  # fmt: skip


def test_a_pipe_is_no_model(tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    fault = check_model_file(tmp_path / "pipe.gguf")
    assert fault is not None
    assert "is no file" in fault.text
