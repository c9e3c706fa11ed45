"""Whether an engine's llama.cpp has OpenMP, by its files: as programs and packages are laid out."""

import os

import pytest

from miner.core.engine.launchers import BinaryLauncher, LlamaCppPythonLauncher, XllamacppLauncher, find_launcher

WITH = b"\x7fELF" + bytes(3000) + b"LLAMAFILE\0OPENMP\0REPACK\0" + bytes(3000)
WITHOUT = b"\x7fELF" + bytes(3000) + b"LLAMAFILE\0GGML_OPENMP\0OPENMP=\0REPACK\0" + bytes(3000)


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o755)
    return path


LAYOUTS = [
    "bin/llama-server",  # linked into it
    "bin/libggml-cpu.so.0.26.0",
    "bin/libggml-cpu-haswell.so",  # loaded at run time
    "lib/libggml-cpu.so",
    "lib64/libggml.so",
    "lib/x86_64-linux-gnu/libggml-cpu.so.0",
    "lib/ollama/libggml-cpu-skylakex.so",
    "lib/libggml-cpu.dylib",
]


@pytest.mark.parametrize("place", LAYOUTS)
@pytest.mark.parametrize("openmp", [True, False])
def test_a_program_and_its_libraries(tmp_path, place, openmp):
    binary = put(tmp_path / "bin/llama-server", WITHOUT)
    put(tmp_path / "lib/libother.so", WITH)  # somebody else's
    put(tmp_path / place, WITH if openmp else WITHOUT)
    assert BinaryLauncher(binary).uses_openmp() is openmp


def test_a_link_to_a_program_elsewhere(tmp_path):
    binary = put(tmp_path / "opt/llama/bin/llama-server", WITHOUT)
    put(tmp_path / "opt/llama/bin/libggml-cpu.so", WITH)
    link = tmp_path / "llama-server"
    link.symlink_to(binary)
    assert BinaryLauncher(link).uses_openmp()


def test_a_rebuilt_program_is_read_again(tmp_path):
    binary = put(tmp_path / "llama-server", WITHOUT)
    launcher = BinaryLauncher(binary)
    assert not launcher.uses_openmp()
    os.replace(put(tmp_path / "new", WITH), binary)
    assert launcher.uses_openmp()


def test_what_cannot_be_told_counts_as_without(tmp_path):
    assert not BinaryLauncher(put(tmp_path / "llama-server", b"#!/bin/sh\nexec docker run ...\n")).uses_openmp()
    assert not BinaryLauncher(tmp_path / "missing").uses_openmp()
    assert not XllamacppLauncher(tmp_path / "xllamacpp").uses_openmp()


def test_the_mark_across_two_blocks_of_the_file(tmp_path):
    size = 1 << 20
    for before in range(size - 10, size + 2):
        binary = put(tmp_path / str(before), bytes([1]) * before + b"\0OPENMP\0" + bytes([1]) * 10)
        assert BinaryLauncher(binary).uses_openmp()


def test_packages(tmp_path):
    put(tmp_path / "llama_cpp/lib/libggml-cpu.so", WITH)
    assert LlamaCppPythonLauncher(tmp_path / "llama_cpp").uses_openmp()
    put(tmp_path / "xllamacpp/xllamacpp.abi3.so", WITHOUT)
    assert not XllamacppLauncher(tmp_path / "xllamacpp").uses_openmp()
    put(tmp_path / "xllamacpp.libs/libggml-cpu-1.so.0", WITH)
    assert XllamacppLauncher(tmp_path / "xllamacpp").uses_openmp()


def test_the_wheel_here_says_the_same_itself():
    import xllamacpp

    launcher = find_launcher()
    assert isinstance(launcher, XllamacppLauncher)
    assert launcher.uses_openmp() is ("OPENMP = 1" in xllamacpp.get_system_info())
