"""The environment of an engine."""

from __future__ import annotations

import os

_ENVIRONMENT = {
    "PATH", "HOME", "LANG", "LANGUAGE", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT",
}  # fmt: skip
_ENVIRONMENT_FAMILIES = ("LC_", "CUDA_", "HIP_", "ROCR_", "HSA_", "GGML_", "OMP_", "GOMP_", "VK_", "ONEAPI_")
_SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD")


def clean_environment() -> dict[str, str]:
    """The environment of an engine: what locates programs, libraries and devices, nothing else."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _ENVIRONMENT
        or (name.startswith(_ENVIRONMENT_FAMILIES) and not any(word in name for word in _SECRET_WORDS))
    }
    if "OMP_WAIT_POLICY" not in kept:
        # Waiting OpenMP threads spin, by default for so long that an engine crawls beside a second one (measured on two
        # busy cores: 9 tokens/s, with this 29; on idle cores 85 either way, without any spinning 46).
        kept.setdefault("GOMP_SPINCOUNT", "1000")
    # On a failed assertion ggml would run gdb on itself, for seconds and pages.
    return {**kept, "GGML_NO_BACKTRACE": "1"}
