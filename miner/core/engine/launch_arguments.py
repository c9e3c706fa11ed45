"""Launch arguments from an EngineSpec: parameters of xllamacpp, options of llama-server, arguments of the bindings."""

from __future__ import annotations

from typing import Any

from miner.core.engine.procstat import physical_cores
from miner.core.engine.spec import EngineSpec

CONTEXT_CHECKPOINTS = 4
"""Context checkpoints of a slot (sliding-window models); llama.cpp's default of 32 can take gigabytes per slot."""

_FLASH = {"on": "ENABLED", "off": "DISABLED", "auto": "AUTO"}


def xllamacpp_arguments(spec: EngineSpec) -> dict[str, Any]:
    """Attributes of `xllamacpp.CommonParams`; enum values by name, because only the child imports the wheel.

    The child checks that each attribute exists: names change between releases, and others would be set silently.
    """
    threads = spec.threads or physical_cores()
    values: dict[str, Any] = {
        "model.path": str(spec.model_path.absolute()),
        "model_alias": [spec.alias],
        "n_ctx": spec.ctx_size * spec.parallel,  # llama.cpp divides it by the slots
        "n_parallel": spec.parallel,
        "kv_unified": False,  # a full pool of all slots would end all requests at once
        "ctx_shift": False,
        "n_ctx_checkpoints": CONTEXT_CHECKPOINTS,
        "n_batch": spec.batch_size,
        "n_ubatch": spec.batch_size,
        "cpuparams.n_threads": threads,
        "cpuparams_batch.n_threads": threads,
        # Each slot caches its last prompt anyway. This is for more conversations than slots; the default is up to 8 GiB
        # that no memory estimate includes. The requests choose what is kept (`slots.py`): copying each idle slot would
        # delay those that run.
        "cache_ram_mib": spec.cache_ram_mib,
        "cache_idle_slots": False,
        "ui": False,
        "endpoint_slots": True,
        "endpoint_metrics": True,
        "cors_origins": "",
        "verbosity": 1,  # errors only: 0 hides why a load failed, more costs time per request
    }
    constants: dict[str, list[str]] = {}
    if spec.n_gpu_layers is not None:
        values["n_gpu_layers"] = spec.n_gpu_layers
    if spec.flash_attn:
        constants["flash_attn_type"] = ["llama_flash_attn_type", f"LLAMA_FLASH_ATTN_TYPE_{_FLASH[spec.flash_attn]}"]
    for name, kind in (("cache_type_k", spec.cache_type_k), ("cache_type_v", spec.cache_type_v)):
        if kind:
            constants[name] = ["ggml_type", f"GGML_TYPE_{kind.upper()}"]
    if spec.pooling:
        values["embedding"] = True
        # With a cache per slot, texts of different lengths in one batch are pooled over their last pieces only: wrong
        # vectors, silently. One pool with a share for each slot is right.
        values["kv_unified"] = True
        values["kv_unified_per_slot"] = spec.ctx_size
        constants["pooling_type"] = ["llama_pooling_type", f"LLAMA_POOLING_TYPE_{spec.pooling.upper()}"]
    if spec.mmproj:
        values["mmproj.path"] = str(spec.mmproj.absolute())
    if spec.chat_template:
        values["chat_template"] = spec.chat_template
    return {"values": values, "constants": constants}


def llama_server_arguments(spec: EngineSpec) -> dict[str, Any]:
    """Options of `llama-server`. Those in `optional` are passed if the binary's help lists them: their names have
    changed or they are new, and a version without one behaves as if it were set, or reports it itself.
    """
    threads = str(spec.threads or physical_cores())
    flags = [
        "--model", str(spec.model_path.absolute()), "--alias", spec.alias,
        "--ctx-size", str(spec.ctx_size * spec.parallel), "--parallel", str(spec.parallel),
        "--batch-size", str(spec.batch_size), "--ubatch-size", str(spec.batch_size),
        "--threads", threads, "--threads-batch", threads,
    ]  # fmt: skip
    named: list[tuple[str, object]] = [
        ("--n-gpu-layers", spec.n_gpu_layers),
        ("--flash-attn", spec.flash_attn),
        ("--cache-type-k", spec.cache_type_k),
        ("--cache-type-v", spec.cache_type_v),
        ("--mmproj", spec.mmproj.absolute() if spec.mmproj else None),
    ]
    for flag, value in named:
        if value is not None:
            flags += [flag, str(value)]
    if spec.pooling == "rank":
        flags += ["--embeddings", "--reranking"]
    elif spec.pooling:
        flags += ["--embeddings", "--pooling", spec.pooling]
    optional: list[list[Any]] = [
        [["--no-ui", "--no-webui"]], [["--no-context-shift"]],
        [["--ctx-checkpoints"], str(CONTEXT_CHECKPOINTS)], [["--slots"]], [["--metrics"]], [["--jinja"]],
        [["--offline"]], [["--cache-ram"], str(spec.cache_ram_mib)], [["--no-cache-idle-slots"]],
        [["--log-verbosity", "--verbosity"], "1"],
    ]  # fmt: skip
    if spec.pooling:
        optional += [[["--kv-unified"]], [["--kv-unified-per-slot"], str(spec.ctx_size)]]
    else:
        optional += [[["--no-kv-unified"]]]
    return {"flags": flags, "optional": optional, "chat_template": spec.chat_template}


def llama_cpp_python_arguments(spec: EngineSpec) -> dict[str, Any]:
    """Arguments of `llama_cpp.Llama`, and what `bindings_server.py` needs."""
    threads = spec.threads or physical_cores()
    values: dict[str, Any] = {
        "model_path": str(spec.model_path.absolute()),
        "n_ctx": spec.ctx_size,
        "n_batch": spec.batch_size,
        "n_ubatch": spec.batch_size,
        "n_threads": threads,
        "n_threads_batch": threads,
        "flash_attn": spec.flash_attn == "on",
        "verbose": True,  # the only source of a failed load's reason
    }
    if spec.n_gpu_layers is not None:
        values["n_gpu_layers"] = spec.n_gpu_layers  # -1: all, here too
    constants = {
        name: f"GGML_TYPE_{kind.upper()}"
        for name, kind in (("type_k", spec.cache_type_k), ("type_v", spec.cache_type_v))
        if kind
    }
    return {"values": values, "constants": constants, "alias": spec.alias, "chat_template": spec.chat_template}
