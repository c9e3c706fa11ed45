"""MinerConfig: the settings of the library.

A field's variable is its name in upper case, prefixed with `MINER_` unless it is one of the published names
(`sources.variable_of`). Precedence of the sources: `base.Settings`.
"""

from __future__ import annotations

import os
from typing import Any

from pydantic import Field, SecretStr

from miner.config.base import HttpUrl, PathText, Seconds, Settings, path_as_text
from miner.config.llamacpp import CacheType, FlashAttention, PoolingType
from miner.config.llamacpp_fields import Flags, LoraAdapters, SpeculationType

__all__ = ["MinerConfig", "config_of"]


class MinerConfig(Settings):
    """Settings of the library, which the gateway and the command line use too.

    Fields can be assigned after construction; a service reads them when it needs them.

    Raises:
        ConfigError: a value is invalid, or an argument is not a setting.
    """

    config: PathText | None = None
    """The file that says what is served (docs/configuration.md); default: `miner.toml` in the working directory, else
    `miner/miner.toml` in the user's config directory, where there is one."""
    llm_backend: str = Field("llamacpp", min_length=1)
    """The backend: a name from `miner backends`; default: "pool" where there is such a file."""
    llm_fallbacks: str = ""
    """Backends to use while it is unavailable, in order, comma-separated."""
    fallback_cooldown: Seconds = 30.0
    """Seconds before an unavailable backend is tried again."""
    max_retries: int = Field(2, ge=0, le=10)
    """Retries of a request that failed before any part of the response arrived."""
    connect_timeout: Seconds = 10.0
    """Connect timeout in seconds."""
    max_connections: int | None = Field(None, ge=1)
    """Maximum connections per server; further requests wait up to `queue_timeout`. Default: unlimited."""

    default_model: str | None = None
    """The model of requests that name none."""
    default_max_tokens: int = Field(512, ge=1)
    """Default of max_tokens: the tokens to generate at most."""
    default_temperature: float = Field(0.7, ge=0, le=2, allow_inf_nan=False)
    """Default of temperature; 0: greedy."""
    default_top_p: float = Field(0.95, gt=0, le=1, allow_inf_nan=False)
    """Default of top_p."""
    allow_remote_images: bool = False
    """Allow http(s) image URLs, which the engine fetches."""

    model_path: PathText | None = None
    """llama.cpp: a .gguf file or a model's name, which is then the only model."""
    any_model_name: bool = True
    """With MODEL_PATH: serve requests for any other model name too, with a warning in the log; false: refuse them.
    `miner serve` has MINER_SERVE_ANY_MODEL_NAME instead, false by default."""
    models_dir: PathText | None = None
    """Directory of .gguf files; default: `miner/models` in the user's cache directory."""
    delete_model_files: bool = False
    """Whether `/api/delete` may delete files that were not pulled or created here."""
    hf_endpoint: HttpUrl = "https://huggingface.co"
    """The hub that `miner models pull` downloads from."""
    hf_token: SecretStr | None = None
    """Token for that hub; default: the one stored by `hf auth login`."""

    ollama_base_url: HttpUrl = "http://localhost:11434"
    """URL of the Ollama server."""
    ollama_timeout: Seconds = 300.0
    """Read timeout in seconds."""
    ollama_num_ctx: int | None = Field(None, ge=16)
    """Context length in tokens, sent with each request; default: Ollama's own."""

    vllm_api_base: HttpUrl = "http://localhost:8000/v1"
    """URL of the vLLM server, with its /v1."""
    vllm_api_key: SecretStr | None = None
    """API key of that server; `miner vllm --run` passes it to the server that it starts."""
    vllm_timeout: Seconds = 300.0
    """Read timeout in seconds."""

    openai_api_base: HttpUrl | None = None
    """Any server that speaks OpenAI's API (backend "openai"), with its /v1."""
    openai_api_key: SecretStr | None = None
    """API key of that server."""
    openai_timeout: Seconds = 300.0
    """Read timeout in seconds."""

    llamacpp_api_base: HttpUrl | None = None
    """A running llama.cpp server; no engine is started then."""
    llamacpp_api_key: SecretStr | None = None
    """API key of that server."""
    llamacpp_alias: str | None = Field(None, min_length=1)
    """Name of the model of MODEL_PATH; default: that of its file."""
    llamacpp_server: PathText | None = None
    """A `llama-server` binary to run instead of the xllamacpp wheel."""
    llamacpp_timeout: Seconds = 300.0
    """Read timeout in seconds."""
    llamacpp_start_timeout: Seconds = 120.0
    """Seconds without progress after which starting an engine fails."""
    llamacpp_ctx_size: int | None = Field(None, ge=256)
    """Context length of each slot, in tokens; llama.cpp rounds it up to a multiple of 256, and no slot is longer than
    the model was trained for. Default: what fits into memory."""
    llamacpp_parallel: int | None = Field(None, ge=1, le=256)
    """Slots: concurrent requests per engine; default: 8, fewer where memory is short or slots would have less than
    32768 tokens."""
    llamacpp_threads: int | None = Field(None, ge=1, le=512)
    """Threads of an engine; default: one for each core, or a share of them (docs/configuration.md)."""
    llamacpp_n_gpu_layers: int | None = Field(None, ge=-1)
    """Layers in GPU memory; -1: all; default: as many as fit."""
    llamacpp_flash_attn: FlashAttention = "auto"
    """Flash attention; auto: where the engine can."""
    llamacpp_cache_type_k: CacheType = "f16"
    """Type of the keys in the KV cache; q8_0 takes half the memory of f16."""
    llamacpp_cache_type_v: CacheType = "f16"
    """Type of the values in the KV cache; a quantized one needs flash attention."""
    llamacpp_batch_size: int | None = Field(None, ge=32, le=16384)
    """Prompt tokens computed in one go; a cancelled request leaves its slot when the batch at hand is done. Default:
    128 on processors alone, 512 where a GPU may compute."""
    llamacpp_n_predict: int | None = Field(None, ge=-1)
    """With the next two, as llama-server's options: defaults of requests in llama.cpp's own form (`/completion`,
    `/infill`). Most tokens to generate; default: until the context ends."""
    llamacpp_temp: float | None = Field(None, ge=0, le=2)
    """Temperature; default: the engine's, 0.8."""
    llamacpp_seed: int | None = Field(None, ge=-1, le=2**32 - 1)
    """Seed; default: a random one for each request."""
    llamacpp_pooling: PoolingType | None = None
    """Pooling of an embedding model; if set, embeddings are served (rank: reranking)."""
    llamacpp_chat_template: PathText | None = None
    """File with a Jinja chat template that replaces the model's own."""
    llamacpp_cache_ram: int | None = Field(None, ge=0)
    """MiB of main memory in which an engine keeps the prompts of more conversations than it has slots; 0: none.
    Default: as much as the slots themselves have, at most a quarter of the memory that the model leaves."""
    llamacpp_lora: LoraAdapters | None = None
    """LoRA adapters that apply to every request: files, comma-separated, each with an optional `:SCALE`."""
    llamacpp_mmproj: PathText | None = None
    """The vision or audio projector; default: the matching one beside the model."""
    llamacpp_no_mmproj: bool = False
    """Use no projector, even if there is one beside the model."""
    llamacpp_cpu_moe: bool = False
    """Keep the experts of all layers in main memory."""
    llamacpp_n_cpu_moe: int | None = Field(None, ge=0)
    """Keep the experts of the first N layers in main memory."""
    llamacpp_spec_type: SpeculationType | None = None
    """Speculation: draft (by LLAMACPP_SPEC_DRAFT_MODEL, its default), ngram-simple, ngram-mod, or another of
    llama-server's --spec-type; several with commas between them."""
    llamacpp_spec_draft_model: PathText | None = None
    """The draft model: a .gguf file, or a model's name."""
    llamacpp_spec_draft_n_max: int | None = Field(None, ge=1, le=512)
    """Most tokens to guess ahead; default: llama.cpp's."""
    llamacpp_spec_draft_n_min: int | None = Field(None, ge=0, le=512)
    """Fewest tokens to verify."""
    llamacpp_spec_draft_p_min: float | None = Field(None, ge=0, le=1)
    """A guess of the draft model that is less likely ends the draft."""
    llamacpp_spec_draft_ngl: int | None = Field(None, ge=-1)
    """Layers of the draft model in GPU memory; -1: all; default: as many as fit."""
    llamacpp_flags: Flags | None = None
    """Other options of llama-server by their names: words such as `--rope-freq-base 10000 --no-kv-offload`, or a JSON
    object."""
    llamacpp_memory_budget: int | None = Field(None, ge=1)
    """Bytes that all loaded engines may use; default: four fifths of the free memory at start."""
    kv_cache: int | None = Field(None, ge=0)
    """Bytes on disk for the prompts of llama.cpp engines that were evicted or unloaded, which are not read again after
    the next load then; 0: none are kept. Default: a tenth of what is free there, 8 GiB at most."""
    llamacpp_max_loaded: int | None = Field(None, ge=1)
    """Maximum loaded engines; default: as many as fit into the memory budget."""
    llamacpp_cores: int | None = Field(None, ge=1)
    """Processor cores for all engines together; default: those of this process."""
    llamacpp_idle_timeout: Seconds | None = None
    """Seconds after its last request until an engine is unloaded; default: never."""
    llamacpp_fairness_wait: Seconds = 10.0
    """Seconds after which a request for a model that is not loaded may evict a busy engine."""

    max_queue: int = Field(1024, ge=0)
    """Maximum requests waiting for a slot of a llama.cpp engine, also through the gateway."""
    queue_timeout: Seconds = 300.0
    """Maximum seconds that a request waits for a slot, or for one of MINER_MAX_CONNECTIONS."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)


_STRUCTURED = ("llamacpp_lora", "llamacpp_spec_type", "llamacpp_flags")
"""Fields whose values are not what is written: another class' are read as ours would be."""


class _Completed:
    """A config object of another class, with the environment's settings for attributes that it lacks."""

    def __init__(self, config: Any) -> None:
        self._config = config
        self._defaults: MinerConfig | None = None

    def __getattr__(self, name: str) -> Any:
        if name not in MinerConfig.model_fields:
            raise AttributeError(name)
        value = getattr(self._config, name, None)
        # Mocks and lazy proxies have every attribute: only values of a setting's type count.
        if name in _STRUCTURED and isinstance(value, (str, dict, list, tuple)):
            return getattr(MinerConfig(**{name: value}), name)
        if isinstance(value, (str, int, float, os.PathLike, SecretStr)):
            return path_as_text(value)
        if self._defaults is None:
            self._defaults = MinerConfig()
        return getattr(self._defaults, name)


def config_of(config: Any) -> MinerConfig:
    """Return the settings of a service: a MinerConfig as it is, for None the environment's, any other object completed
    from the environment and the defaults (its attributes are read on use).
    """
    if config is None:
        return MinerConfig()
    if issubclass(type(config), MinerConfig):  # not isinstance: a mock with a spec passes that
        return config  # type: ignore[no-any-return]
    return _Completed(config)  # type: ignore[return-value]
