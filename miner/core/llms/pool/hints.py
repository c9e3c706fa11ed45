"""Errors of services say which variable to set; a service of the pool is set up by the file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from miner.config.file.problems import key_text
from miner.core.llms.pool.table import ServedModel
from miner.core.wire import LLMResponse
from miner.errors import MinerError, ModelNotFoundError

_MODEL_KEYS = {
    "LLAMACPP_CTX_SIZE": "context", "LLAMACPP_PARALLEL": "slots", "LLAMACPP_THREADS": "threads",
    "LLAMACPP_N_GPU_LAYERS": "n_gpu_layers", "LLAMACPP_FLASH_ATTN": "flash_attn",
    "LLAMACPP_CACHE_TYPE_K": "cache_type_k", "LLAMACPP_CACHE_TYPE_V": "cache_type_v",
    "LLAMACPP_BATCH_SIZE": "batch_size", "LLAMACPP_CACHE_RAM": "cache_ram", "LLAMACPP_POOLING": "pooling",
    "LLAMACPP_CHAT_TEMPLATE": "chat_template", "LLAMACPP_TIMEOUT": "timeout", "OLLAMA_NUM_CTX": "context",
    "LLAMACPP_CPU_MOE": "cpu_moe", "LLAMACPP_N_CPU_MOE": "n_cpu_moe", "LLAMACPP_LORA": "lora",
    "LLAMACPP_MMPROJ": "mmproj", "LLAMACPP_NO_MMPROJ": "mmproj", "LLAMACPP_FLAGS": "flags",
    "LLAMACPP_IDLE_TIMEOUT": "keep_alive",
    "LLAMACPP_SPEC_TYPE": "speculation.type", "LLAMACPP_SPEC_DRAFT_MODEL": "speculation.file",
    "LLAMACPP_SPEC_DRAFT_N_MAX": "speculation.n_max", "LLAMACPP_SPEC_DRAFT_N_MIN": "speculation.n_min",
    "LLAMACPP_SPEC_DRAFT_P_MIN": "speculation.p_min", "LLAMACPP_SPEC_DRAFT_NGL": "speculation.n_gpu_layers",
    "MODEL_PATH": "file",
}  # fmt: skip
_BACKEND_KEYS = {
    "VLLM_API_BASE": "url", "OLLAMA_BASE_URL": "url", "MINER_OPENAI_API_BASE": "url", "LLAMACPP_API_BASE": "url",
    "VLLM_API_KEY": "key", "MINER_OPENAI_API_KEY": "key", "LLAMACPP_API_KEY": "key",
    "VLLM_TIMEOUT": "timeout", "OLLAMA_TIMEOUT": "timeout", "MINER_OPENAI_TIMEOUT": "timeout",
    "LLAMACPP_SERVER": "server", "MODELS_DIR": "models_dir", "MINER_CONNECT_TIMEOUT": "connect_timeout",
    "MINER_MAX_CONNECTIONS": "max_connections", "MINER_MAX_RETRIES": "max_retries",
    "LLAMACPP_START_TIMEOUT": "start_timeout",
}  # fmt: skip
_LIMIT_KEYS = {
    "LLAMACPP_MEMORY_BUDGET": "memory", "LLAMACPP_MAX_LOADED": "max_loaded", "MINER_MAX_QUEUE": "max_queue",
    "MINER_QUEUE_TIMEOUT": "queue_timeout", "LLAMACPP_CORES": "cores", "MINER_KV_CACHE": "kv_cache",
}  # fmt: skip
_KIND = re.compile(r"\bLLM_BACKEND=(\w+)")
_VARIABLE = re.compile(rf"\b({'|'.join([*_MODEL_KEYS, *_BACKEND_KEYS, *_LIMIT_KEYS])})\b")


@contextmanager
def keys_in_errors(served: ServedModel) -> Iterator[None]:
    """Errors in the block name the keys of the file in the place of variables, and the model by its own name, also
    where it shares an engine with another one; so do the responses in them.
    """
    try:
        yield
    except MinerError as error:
        _rename(error, served)
        raise


def _rename(error: MinerError, served: ServedModel) -> None:
    model, plan = served.name, served.holder.plan

    def renamed(text: str) -> str:
        text = with_keys(text, model, plan.backend)
        return text if plan.alias is None else text.replace(repr(plan.alias), repr(model))

    error.message = renamed(error.message)
    if error.hint:
        error.hint = renamed(error.hint)
    if error.operator_hint:
        error.operator_hint = renamed(error.operator_hint)
    if isinstance(error, ModelNotFoundError) and _is_of_name(served, error):
        # In the message, which every caller gets. What else the server has is for operators: keys may not allow it.
        error.message = f"{error.message} The model {model!r} is sent to its server under that name."
        listed = f"The server lists: {', '.join(error.available)}." if error.available else ""
        correct = f"Correct {key_text(('models', model, 'name'))}."
        error.operator_hint = " ".join(filter(None, (listed, correct, error.operator_hint)))
    for response in (getattr(error, "partial", None), getattr(error, "response", None)):
        if isinstance(response, LLMResponse):
            served.describe(response, response.usage)


def _is_of_name(served: ServedModel, error: ModelNotFoundError) -> bool:
    """Whether the error is about the name that `name` of the file has given the model."""
    return served.model.name is not None and served.upstream is not None and error.model in (None, served.upstream)


def with_keys(text: str, model: str, backend: str, *, of: str = "") -> str:
    """The text with keys of the file in the place of variables; `of` follows each."""

    def key_of(match: re.Match[str]) -> str:
        variable = match[1]
        if variable in _MODEL_KEYS:
            return key_text(("models", model, *_MODEL_KEYS[variable].split("."))) + of
        if variable in _BACKEND_KEYS:
            return key_text(("backends", backend, _BACKEND_KEYS[variable])) + of
        return f"limits.{_LIMIT_KEYS[variable]}{of}"

    return _VARIABLE.sub(
        key_of, _KIND.sub(lambda match: f'{key_text(("backends", backend, "kind"))} = "{match[1]}"', text)
    )
