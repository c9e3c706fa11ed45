"""Reasons from logs and exit statuses."""

import os

import pytest

from miner.core.engine.diagnosis import check_model_file, describe_exit, explain


@pytest.mark.parametrize(
    ("lines", "status", "says"),
    [
        (["0.00 E ggml_aligned_malloc: insufficient memory (attempted to allocate 65919.38 MB)"], 1, "65919.38 MB"),
        (["terminate called after throwing an instance of 'std::bad_alloc'"], -6, "not enough memory"),
        (["ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory"], 1, "not enough memory"),
        (["E srv start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 1"], 1, "address is in use"),
        (["OSError: [Errno 98] Address already in use"], 1, "address is in use"),
        (["bind: address already in use"], 1, "address is in use"),
        (["error: invalid argument: --no-such"], 1, "does not support the option --no-such"),
        (["llama-server: error while loading shared libraries: libllama.so: no"], 127, "libllama.so"),
        (["E gguf_init_from_file: failed to open GGUF file '/m' (Permission denied)"], 1, "/m cannot be opened: Perm"),
        (["error loading model: error loading model vocabulary: unknown pre-tokenizer"], 1, "unknown pre-tokenizer"),
        (["an old error: cudaMalloc failed"], -9, "memory ran out"),
        ([], -4, "CPU lacks instructions"),
        ([], -11, "segmentation fault"),
        ([], -7, "truncated or changed"),
        (["some words"], 3, "its last log line: some words"),
        ([], 0, "it printed nothing"),
        (["{braces} error {0}"], 1, "{braces} error {0}"),
    ],
)
def test_reasons(lines, status, says):
    assert says in explain(lines, status).text


def test_exits_have_names():
    assert [describe_exit(status) for status in (0, 3, -9, -6, -250, None)] == [
        "exit status 0", "exit status 3", "killed by SIGKILL", "killed by SIGABRT", "killed by signal 250",
        "not running",
    ]  # fmt: skip


def test_a_pipe_is_no_model(tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    problem = check_model_file(tmp_path / "pipe.gguf")
    assert problem is not None
    assert "not a regular file" in problem.text
