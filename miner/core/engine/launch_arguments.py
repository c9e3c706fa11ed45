"""Launch arguments from an EngineSpec: parameters of xllamacpp, options of llama-server, arguments of the bindings."""

from __future__ import annotations

from typing import Any

from miner.core.engine.flags.check import all_names, wheel_parameters
from miner.core.engine.flags.values import EXPERTS, cpu_layers
from miner.core.engine.procstat import physical_cores
from miner.core.engine.spec import EngineSpec
from miner.core.engine.speculation import draft_lengths
from miner.errors import EngineStartError

CONTEXT_CHECKPOINTS = 4
"""Context checkpoints of a slot (sliding-window models); llama.cpp's default of 32 can take gigabytes per slot."""

_ALL_LAYERS = -2
"""`n_gpu_layers` of the wheel for all: -1 lets it choose."""
_MANY = 999
"""`--n-gpu-layers` for all, in all versions of llama-server."""
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
    constants: dict[str, Any] = {}
    if spec.n_gpu_layers is not None:
        values["n_gpu_layers"] = spec.n_gpu_layers if spec.n_gpu_layers >= 0 else _ALL_LAYERS
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
    _speculate(spec, threads, values, constants)
    more, more_constants, names = wheel_parameters(spec.flags)
    overrides = [more.pop("tensor_buft_overrides", "")]
    if spec.cpu_moe:
        overrides.append(f"{EXPERTS}=CPU")
    elif spec.n_cpu_moe:
        overrides.append(cpu_layers(spec.n_cpu_moe))
    if any(overrides):
        values["tensor_buft_overrides"] = ",".join(filter(None, overrides))
    return {
        "values": values | more,
        "constants": constants | more_constants,
        "adapters": [[str(path.absolute()), scale] for path, scale in spec.lora],
        "names": names,
    }


def _speculate(spec: EngineSpec, threads: int, values: dict[str, Any], constants: dict[str, Any]) -> None:
    """Add the attributes of speculation."""
    kinds = spec.spec_types
    if not kinds:
        return
    constants["speculative.types"] = [
        ["common_speculative_type", f"COMMON_SPECULATIVE_TYPE_{kind.upper().replace('-', '_')}"] for kind in kinds
    ]
    if spec.spec_draft_model is not None:
        values["speculative.draft.mparams.path"] = str(spec.spec_draft_model.absolute())
    values["speculative.draft.cpuparams.n_threads"] = threads
    values["speculative.draft.cpuparams_batch.n_threads"] = threads
    if spec.spec_draft_ngl is not None:
        layers = spec.spec_draft_ngl if spec.spec_draft_ngl >= 0 else _ALL_LAYERS
        values["speculative.draft.n_gpu_layers"] = layers
    if spec.spec_draft_p_min is not None:
        values["speculative.draft.p_min"] = spec.spec_draft_p_min
    for attribute, value, _ in draft_lengths(kinds, spec.spec_draft_n_max, spec.spec_draft_n_min):
        values[f"speculative.{attribute}"] = value


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
        ("--n-gpu-layers", spec.n_gpu_layers if spec.n_gpu_layers is None or spec.n_gpu_layers >= 0 else _MANY),
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
    return {
        "flags": flags,
        "optional": optional,
        "required": _required(spec),
        "named": [[all_names(name), list(value) if isinstance(value, tuple) else value] for name, value in spec.flags],
        "adapters": [[str(path.absolute()), scale] for path, scale in spec.lora],
        "chat_template": spec.chat_template,
    }


def _required(spec: EngineSpec) -> list[list[Any]]:
    """Flags that a binary must have, by their names today and before, and the setting that each is for."""
    required: list[list[Any]] = []
    if spec.cpu_moe:
        required.append([["--cpu-moe"], None, "LLAMACPP_CPU_MOE"])
    if spec.n_cpu_moe is not None:
        required.append([["--n-cpu-moe"], str(spec.n_cpu_moe), "LLAMACPP_N_CPU_MOE"])
    kinds = spec.spec_types
    if not kinds:
        return required
    # Before there was --spec-type, a draft model was all that there was.
    required.append([["--spec-type"], ",".join(kinds), None if kinds == ("draft-simple",) else "LLAMACPP_SPEC_TYPE"])
    if spec.spec_draft_model is not None:
        names = ["--spec-draft-model", "--model-draft"]
        required.append([names, str(spec.spec_draft_model.absolute()), "LLAMACPP_SPEC_DRAFT_MODEL"])
    if spec.spec_draft_ngl is not None:
        layers = spec.spec_draft_ngl if spec.spec_draft_ngl >= 0 else _MANY
        required.append([["--spec-draft-ngl", "--gpu-layers-draft"], str(layers), "LLAMACPP_SPEC_DRAFT_NGL"])
    if spec.spec_draft_p_min is not None:
        names = ["--spec-draft-p-min", "--draft-p-min"]
        required.append([names, str(spec.spec_draft_p_min), "LLAMACPP_SPEC_DRAFT_P_MIN"])
    for attribute, value, setting in draft_lengths(kinds, spec.spec_draft_n_max, spec.spec_draft_n_min):
        older = {"draft.n_max": ["--draft-max"], "draft.n_min": ["--draft-min"]}.get(attribute, [])
        name = "--spec-" + attribute.replace(".", "-").replace("_", "-")
        required.append([[name, *older], str(value), setting])
    return required


def llama_cpp_python_arguments(spec: EngineSpec) -> dict[str, Any]:
    """Arguments of `llama_cpp.Llama`, and what `bindings_server.py` needs.

    Raises:
        EngineStartError: the bindings have no such option, or not so that it is served.
    """
    refused = {
        "LLAMACPP_LORA": [str(path) for path, _ in spec.lora],
        "LLAMACPP_CPU_MOE": spec.cpu_moe,
        "LLAMACPP_N_CPU_MOE": spec.n_cpu_moe,
        "LLAMACPP_SPEC_TYPE": ",".join(spec.spec_types),
        "LLAMACPP_FLAGS": dict(spec.flags),
    }
    for name, value in refused.items():
        if value:
            raise EngineStartError(
                f"{name}={value!r}: not with llama-cpp-python.",
                backend="llamacpp",
                retryable=False,
                operator_hint='Unset it, or install the full engine: pip install "llm-service-backends[llamacpp]"',
            )
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
