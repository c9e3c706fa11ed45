"""The environment of an engine."""

from __future__ import annotations

import os

_ENVIRONMENT = {
    "PATH", "HOME", "LANG", "LANGUAGE", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT",
}  # fmt: skip
_ENVIRONMENT_FAMILIES = ("LC_", "CUDA_", "HIP_", "ROCR_", "HSA_", "GGML_", "OMP_", "GOMP_", "VK_", "ONEAPI_")
_COMMAND_ENVIRONMENT = {
    "USER", "LOGNAME", "SHELL", "LD_PRELOAD", "VIRTUAL_ENV", "PYTHONPATH", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "DO_NOT_TRACK", "TIKTOKEN_CACHE_DIR", "TIKTOKEN_ENCODINGS_BASE",
}  # fmt: skip
_PROXIES = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}
_COMMAND_FAMILIES = (
    "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "VLLM_", "SGLANG_", "SGL_", "TORCH", "TRITON_", "NCCL_", "NVIDIA_",
    "PYTORCH_", "XDG_", "UV_", "CONDA_", "LLAMA_", "OLLAMA_", "FLASHINFER_", "MODELSCOPE_", "RAY_", "MKL_", "KMP_",
)  # fmt: skip
_OURS = {"VLLM_API_BASE", "VLLM_TIMEOUT", "OLLAMA_API_BASE", "OLLAMA_TIMEOUT"}
"""Settings of this program with the prefix of an engine's."""
_SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD")


def clean_environment() -> dict[str, str]:
    """The environment of an engine: what locates programs, libraries and devices, nothing else."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _ENVIRONMENT or (name.startswith(_ENVIRONMENT_FAMILIES) and not _is_secret(name))
    }
    if "OMP_WAIT_POLICY" not in kept:
        # Waiting OpenMP threads spin, by default for so long that an engine crawls beside a second one (measured on two
        # busy cores: 9 tokens/s, with this 29; on idle cores 85 either way, without any spinning 46).
        kept.setdefault("GOMP_SPINCOUNT", "1000")
    # On a failed assertion ggml would run gdb on itself, for seconds and pages.
    return {**kept, "GGML_NO_BACKTRACE": "1"}


def command_environment() -> dict[str, str]:
    """The environment of a user's own server: besides that of an engine what tells it where its models, caches and
    certificates are, and the settings of well-known servers, so that it does as in the shell in which it was tried.
    No secrets: what has one is named in the command's own `env`.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if (name in _COMMAND_ENVIRONMENT or name.upper() in _PROXIES or name.startswith(_COMMAND_FAMILIES))
        and name not in _OURS
        and not _is_secret(name)
    }
    return {**kept, **clean_environment()}


def withheld() -> list[str]:
    """Names of secrets that a command does not get, though they are for servers such as it."""
    return sorted(name for name in os.environ if name.startswith(_COMMAND_FAMILIES) and _is_secret(name))


def _is_secret(name: str) -> bool:
    return any(word in name for word in _SECRET_WORDS) and not name.endswith(("_PATH", "_FILE"))
