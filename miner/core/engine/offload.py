"""Whether an engine can use a GPU at all, as far as its files tell; nothing is imported or started."""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from miner.core.engine.launchers import LlamaCppPythonLauncher, XllamacppLauncher

if TYPE_CHECKING:
    from miner.core.engine.launchers import Launcher

__all__ = ["may_offload"]

_SIGNS = (b"libcuda.so", b"libcudart", b"libamdhip64", b"libvulkan", b"ggml_metal")
_BLOCK = 1 << 20


def may_offload(launcher: Launcher, n_gpu_layers: int | None) -> bool:
    """Whether layers may lie on a GPU. Reads the wheel's libraries once, so not for an event loop."""
    if n_gpu_layers == 0:
        return False
    if isinstance(launcher, LlamaCppPythonLauncher):
        return n_gpu_layers is not None  # without a number its bindings use none
    if not isinstance(launcher, XllamacppLauncher) or sys.platform != "linux":
        return True
    places = (launcher.package, launcher.package.with_name(f"{launcher.package.name}.libs"))
    return any(_names_a_gpu(file) for place in places for file in sorted(place.glob("*.so*")))


@lru_cache(maxsize=64)
def _names_a_gpu(library: Path) -> bool:
    kept = b""
    try:
        with library.open("rb") as file:
            while block := file.read(_BLOCK):
                if any(sign in kept + block for sign in _SIGNS):
                    return True
                kept = block[-32:]
    except OSError:
        return True
    return False
