"""MinerConfig: the only settings class.

A setting comes from, first to last: the arguments of `MinerConfig(...)`, the environment, `.env` in the working
directory, the default. A variable is a field's name in upper case, with `MINER_` before it where the name is not one of
the published ones (`sources.variable_of`); case does not matter. Empty variables count as unset.
"""

from __future__ import annotations

import os
from typing import Any

from pydantic import Field, SecretStr

from miner.config.base import Settings
from miner.config.llamacpp import CacheType, FlashAttention, PoolingType
from miner.config.values import HttpUrl, PathText, Seconds, path_as_text

__all__ = ["MinerConfig", "config_of"]


class MinerConfig(Settings):
    """All settings of the library, the gateway and the command line.

    Fields can be assigned after construction; a service reads them when it needs them.

    Raises:
        ConfigError: a value is wrong, or an argument is not a setting.
    """

    llm_backend: str = Field("llamacpp", min_length=1)
    """Which backend serves: a name from `miner backends`."""
    llm_fallbacks: str = ""
    """Backends that answer while the chosen one is unavailable, in order, with commas between."""
    fallback_cooldown: Seconds = 30.0
    """Seconds until an unavailable backend is tried again."""
    max_retries: int = Field(2, ge=0, le=10)
    """How often a request is sent again when it failed before anything of the answer came."""
    connect_timeout: Seconds = 10.0
    """Seconds within which a server must take a connection."""
    max_connections: int | None = Field(None, ge=1)
    """Connections to one server at most; requests beyond wait for `queue_timeout`. Default: any number."""

    default_model: str | None = None
    """The model when a request names none."""
    default_max_tokens: int = Field(512, ge=1)
    default_temperature: float = Field(0.7, ge=0, le=2, allow_inf_nan=False)
    default_top_p: float = Field(0.95, gt=0, le=1, allow_inf_nan=False)
    allow_remote_images: bool = False
    """Let the engine fetch images that a request names by http(s) URL."""

    model_path: PathText | None = None
    """llama.cpp: a .gguf file, or a model's name; then this is the only model."""
    any_model_name: bool = True
    """With MODEL_PATH: requests for a model of any other name get that one, with a warning in the log; false: they are
    refused. `miner serve` refuses them unless MINER_SERVE_ANY_MODEL_NAME says otherwise."""
    models_dir: PathText | None = None
    """Directory of .gguf files; default: `miner/models` in the user's cache directory."""
    hf_endpoint: HttpUrl = "https://huggingface.co"
    """The hub that `miner models pull` asks."""
    hf_token: SecretStr | None = None
    """Token for that hub; default: the one that `hf auth login` has stored."""

    ollama_base_url: HttpUrl = "http://localhost:11434"
    ollama_timeout: Seconds = 300.0
    """Longest silence of Ollama, in seconds."""
    ollama_num_ctx: int | None = Field(None, ge=16)
    """Context length, in tokens, asked of Ollama with each request; default: Ollama's own."""

    vllm_api_base: HttpUrl = "http://localhost:8000/v1"
    vllm_api_key: SecretStr | None = None
    vllm_timeout: Seconds = 300.0
    """Longest silence of the vLLM server, in seconds."""

    llamacpp_api_base: HttpUrl | None = None
    """A llama.cpp server that runs already; then no engine is started."""
    llamacpp_api_key: SecretStr | None = None
    """Key of that server."""
    llamacpp_server: PathText | None = None
    """A `llama-server` binary to run in place of the xllamacpp wheel."""
    llamacpp_timeout: Seconds = 300.0
    """Longest silence of the engine, in seconds."""
    llamacpp_start_timeout: Seconds = 120.0
    """Longest silence, in seconds, of an engine that starts."""
    llamacpp_ctx_size: int | None = Field(None, ge=256)
    """Context length of each slot, in tokens; llama.cpp rounds it up to a multiple of 256, and no slot is longer than
    the model was trained for. Default: 4096."""
    llamacpp_parallel: int | None = Field(None, ge=1, le=256)
    """Slots: requests that one engine works on at once; default: what the machine carries."""
    llamacpp_threads: int | None = Field(None, ge=1, le=512)
    llamacpp_n_gpu_layers: int | None = Field(None, ge=-1)
    """Layers in GPU memory; -1: all; default: as many as fit."""
    llamacpp_flash_attn: FlashAttention = "auto"
    llamacpp_cache_type_k: CacheType = "f16"
    llamacpp_cache_type_v: CacheType = "f16"
    llamacpp_batch_size: int | None = Field(None, ge=32, le=16384)
    """Prompt tokens computed in one go; a cancelled request leaves its slot when the batch at hand is done. Default:
    128 on processors alone, 512 where a GPU may compute."""
    llamacpp_pooling: PoolingType | None = None
    """How an embedding model makes one vector of many; set: embeddings are served (rank: reranking)."""
    llamacpp_chat_template: PathText | None = None
    """File with a Jinja chat template to use in place of the model's own."""
    llamacpp_memory_budget: int | None = Field(None, ge=1)
    """Bytes that all loaded engines may take; default: four fifths of the memory that is free at the start."""
    llamacpp_max_loaded: int | None = Field(None, ge=1)
    """Engines loaded at once; default: as many as the memory budget carries."""
    llamacpp_idle_timeout: Seconds | None = None
    """Seconds after its last request until an engine is unloaded; default: never."""
    llamacpp_fairness_wait: Seconds = 10.0
    """Seconds that requests for a model that is not loaded wait at most while the loaded ones go on."""

    max_queue: int = Field(1024, ge=0)
    """Requests that wait for a slot at most."""
    queue_timeout: Seconds = 300.0
    """Seconds that a request waits for a slot at most."""

    # Here and not only in the base: else type checkers make one whose arguments must have the fields' exact types.
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)


class _Completed:
    """A foreign config object, with the environment's settings for what it lacks."""

    def __init__(self, given: Any) -> None:
        self._given = given
        self._others: MinerConfig | None = None

    def __getattr__(self, name: str) -> Any:
        if name not in MinerConfig.model_fields:
            raise AttributeError(name)
        value = getattr(self._given, name, None)
        # Some objects have every attribute that they are asked for (mocks, lazy proxies): what is no setting's value
        # is none.
        if isinstance(value, (str, int, float, os.PathLike, SecretStr)):
            return path_as_text(value)
        if self._others is None:
            self._others = MinerConfig()
        return getattr(self._others, name)


def config_of(given: Any) -> MinerConfig:
    """The settings behind whatever a service was given: a MinerConfig as it is, None for the environment's, any
    other object completed from the environment and the defaults (its attributes are read when they are needed).
    """
    if given is None:
        return MinerConfig()
    if issubclass(type(given), MinerConfig):  # not isinstance: a mock with a spec says that it is one
        return given  # type: ignore[no-any-return]
    return _Completed(given)  # type: ignore[return-value]
