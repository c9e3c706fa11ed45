"""GPUs and their drivers, and whether the installed engine can use them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from miner.cli.doctor.facts import Facts
from miner.cli.doctor.row import Check, Row, ok
from miner.cli.doctor.targets import targets
from miner.core.models.memory.verdict import readable
from miner.errors import EngineStartError

_GROUP = "Machine"
_SECONDS = 8.0
_BUILDS = "https://github.com/ggml-org/llama.cpp/blob/master/docs/build.md"
_HIDING = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES")


def checks() -> list[Check]:
    """The checks of this file."""
    return [Check("GPU", _GROUP, gpus, 40.0)]


def gpus(facts: Facts) -> Iterator[Row]:
    """What is there, what is wrong with the driver, and what uses it."""
    from miner.core.models.memory.gpus import find_gpus

    nvidia = _run("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    seen: dict[str, Any] = {name: facts.environment[name] for name in _HIDING if name in facts.environment}
    problem = _driver_problem(nvidia)
    if problem is not None:
        text, fix, hint = problem
        yield Row("GPU driver", "problem", text, fix, hint, seen)
    found = find_gpus()
    if nvidia is not None and nvidia[0] == 0:
        seen["devices"] = [line.strip() for line in nvidia[1].splitlines() if line.strip()][:16]
    vulkan = [] if found else _vulkan()
    seen["memory"] = [{"kind": gpu.kind, "total": gpu.total, "free": gpu.free} for gpu in found]
    if not found and not vulkan:
        hidden = [name for name in _HIDING if name in facts.environment]
        if hidden and (seen.get("devices") or Path("/dev/kfd").exists()):
            yield Row(
                "GPU",
                "note",
                f"{hidden[0]}={facts.environment[hidden[0]]!r} hides all GPUs",
                f"unset {hidden[0]}",
                seen=seen,
            )
        elif Path("/dev/kfd").exists() and not os.access("/dev/kfd", os.R_OK | os.W_OK):
            yield Row(
                "GPU",
                "problem",
                "an AMD GPU is there and this user may not use it (/dev/kfd)",
                "sudo usermod -aG render,video $USER",
                "Then log in again.",
                seen,
            )
        elif problem is None:
            yield ok("GPU", "none: engines here compute on the CPU", **seen)
        return
    words = ", ".join(f"{gpu.kind}, {readable(gpu.total)}" for gpu in found) or f"Vulkan: {', '.join(vulkan)}"
    idle = _unused_by_engine(facts)
    if idle is not None:
        yield Row(
            "GPU",
            "note",
            f"{words}; {idle}",
            "export LLAMACPP_SERVER=/path/to/llama-server",
            f"A build of llama.cpp with GPU support uses it: {_BUILDS}",
            seen,
        )
    else:
        yield ok("GPU", words, **seen)


def _driver_problem(nvidia: tuple[int, str] | None) -> tuple[str, str | None, str | None] | None:
    """What is wrong, the line that fixes it, and more words."""
    kernel = _text(Path("/proc/driver/nvidia/version"))
    if nvidia is None:
        if kernel:
            return (
                "the NVIDIA kernel driver is loaded and nvidia-smi is missing: free GPU memory is unknown",
                "sudo apt install nvidia-utils  # or run the container with --gpus all",
                None,
            )
        return None
    status, output = nvidia
    if status == 0:
        return None
    text = " ".join(output.split())[:200].rstrip(".")
    if "mismatch" in text.lower():
        return f"nvidia-smi: {text}", "sudo reboot", "The driver was updated while its older kernel module is loaded."
    if "couldn't communicate" in text or "communicate with the NVIDIA driver" in text:
        return f"nvidia-smi: {text}", "sudo modprobe nvidia", "Is the driver installed for this kernel?"
    if "No devices were found" in text:
        return f"nvidia-smi: {text}", "lspci | grep -i nvidia", "In a container, give it the GPU: --gpus all"
    how = "hangs" if status == 124 else f"fails ({status})"
    return f"nvidia-smi {how}{f': {text}' if text else ''}", "nvidia-smi", "A driver that hangs needs a reboot."


def _unused_by_engine(facts: Facts) -> str | None:
    """Why no engine here uses the GPU; None: one may, or none runs here."""
    from miner.core.engine.launchers import find_launcher

    if not any(target.is_local for target in targets(facts)):
        return None
    try:
        launcher = find_launcher(facts.settings.llamacpp_server)
    except EngineStartError:
        return None
    layers = facts.settings.llamacpp_n_gpu_layers
    if launcher.may_offload(layers):
        return None
    return (
        "LLAMACPP_N_GPU_LAYERS=0 leaves it idle"
        if layers == 0
        else f"the installed engine ({launcher.name}) computes on the CPU only"
    )


def _vulkan() -> list[str]:
    """The GPUs that Vulkan lists, software renderers left out."""
    result = _run("vulkaninfo", "--summary")
    if result is None or result[0] != 0:
        return []
    names = re.findall(r"deviceName\s*=\s*(.+)", result[1])
    return [name.strip() for name in names if "llvmpipe" not in name and "SwiftShader" not in name]


def _run(program: str, *arguments: str) -> tuple[int, str] | None:
    """Exit status and output; 124: it hangs; None: it is not there."""
    path = shutil.which(program)
    if path is None or (sys.platform == "darwin" and program == "vulkaninfo"):
        return None
    try:
        done = subprocess.run(
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, ""
    except OSError as error:
        return 126, error.strerror or str(error)
    return done.returncode, done.stdout.decode(errors="replace")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
