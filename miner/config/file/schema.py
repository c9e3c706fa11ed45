"""What `miner.toml` may say: one class for each table. Its JSON Schema is `miner config schema`.

Keys of models are named as llama-server's options are, in snake case, where the option exists there.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from miner.config.base import HttpUrl, Seconds
from miner.config.llamacpp import CacheType, FlashAttention, PoolingType

Policy = Literal["refuse", "default", "skip"]

_NAME = r"[^\s\x00-\x1f*?\"'\\]{1,200}"
_SIZE = r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([KMGTkmgt][Ii]?[Bb]|[Bb]|)\s*"
_UNITS = {"": 1, "b": 1}
_UNITS |= {f"{unit}ib": 1 << 10 * power for power, unit in enumerate("kmgt", 1)}
_UNITS |= {f"{unit}b": 1000**power for power, unit in enumerate("kmgt", 1)}
_DURATION = r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)"
_NUMBER = r"\d{1,12}(?:\.\d{1,9})?"
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

SIZE_TEXT = 'a number of bytes, or such as "6GiB" or "512MiB"'
DURATION_TEXT = 'seconds, or such as "90s", "5m" or "1h30m"'
KEEP_ALIVE_TEXT = f"{DURATION_TEXT}; negative: for ever"
NAME_TEXT = "must have no spaces, quotes, backslashes or wildcards, and from 1 to 200 characters"


def _bytes(value: Any) -> Any:
    """Bytes of a number, or of text such as "6GiB"."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(_SIZE, value, re.ASCII)
    if match is None:
        raise ValueError(f"must be {SIZE_TEXT}")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def _seconds_of_text(value: Any, allowed: str) -> Any:
    """Seconds of a number, or of text such as "5m" or "1h30m"."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    sign, rest = (-1.0, text[1:]) if text.startswith("-") else (1.0, text)
    if re.fullmatch(_NUMBER, rest, re.ASCII):
        return sign * float(rest)
    if not re.fullmatch(f"(?:{_DURATION})+", rest, re.ASCII):
        raise ValueError(f"must be {allowed}")
    return sign * sum(float(number) * _SECONDS[unit] for number, unit in re.findall(_DURATION, rest))


def _keep_alive(value: Any) -> Any:
    return _seconds_of_text(value, KEEP_ALIVE_TEXT)


def _duration(value: Any) -> Any:
    return _seconds_of_text(value, f"{DURATION_TEXT}, above 0")


def _name(value: str) -> str:
    if not re.fullmatch(_NAME, value):
        raise ValueError(NAME_TEXT)
    return value


def _text_or(kind: str, pattern: str, says: str, **bounds: Any) -> WithJsonSchema:
    """The JSON Schema of a number that may be written as text with a unit."""
    return WithJsonSchema({"type": [kind, "string"], "pattern": f"^(?:{pattern})$", "x-allowed": says, **bounds})


Bytes = Annotated[int, BeforeValidator(_bytes), Field(ge=1), _text_or("integer", _SIZE, SIZE_TEXT, minimum=1)]
BytesOrNone = Annotated[
    int, BeforeValidator(_bytes), Field(ge=0), _text_or("integer", _SIZE, f"{SIZE_TEXT}; 0: none", minimum=0)
]
Duration = Annotated[
    Seconds, BeforeValidator(_duration),
    _text_or("number", rf"\s*(?:{_NUMBER}|(?:{_DURATION})+)\s*", f"{DURATION_TEXT}, above 0", exclusiveMinimum=0),
]  # fmt: skip
KeepAlive = Annotated[
    float, BeforeValidator(_keep_alive), Field(allow_inf_nan=False),
    _text_or("number", rf"\s*-?(?:{_NUMBER}|(?:{_DURATION})+)\s*", KEEP_ALIVE_TEXT),
]  # fmt: skip
Name = Annotated[str, AfterValidator(_name), WithJsonSchema({"type": "string", "pattern": f"^{_NAME}$"})]
Url = Annotated[HttpUrl, WithJsonSchema({"type": "string", "pattern": "^https?://[^/]"})]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]
FlagValue = str | bool | int | float | list[str | int | float]


class Table(BaseModel):
    """A table of the file: unknown keys are errors, and the docstrings of fields are the schema's descriptions."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, protected_namespaces=(),
        hide_input_in_errors=True,
    )  # fmt: skip


class Backend(Table):
    """`[backends.NAME]`: an engine, or a server, and how it is reached."""

    kind: str = Field(min_length=1)
    """llamacpp, vllm, ollama, openai (anything that speaks OpenAI's API), or a backend that `miner backends` lists."""
    url: Url | None = Field(default=None, repr=False)
    """Address of a server that runs already. llamacpp without it: engines are started here."""
    key: str | None = Field(default=None, repr=False)
    """API key of that server: a variable, such as "${VLLM_KEY}"."""
    key_file: str | None = None
    """File with the API key on its first line."""
    plain_key: str | None = Field(default=None, repr=False)
    """The API key itself: everybody who can read this file has it."""
    timeout: Duration | None = None
    """Read timeout in seconds."""
    connect_timeout: Duration | None = None
    """Connect timeout in seconds."""
    max_connections: int | None = Field(default=None, ge=1)
    """Connections to the server."""
    max_retries: int | None = Field(default=None, ge=0, le=10)
    """Retries of a request that failed before any part of the response arrived."""
    concurrency: int | None = Field(default=None, ge=1)
    """Requests that are sent to the server at once; others wait, fair between clients. Default: what it reports."""
    expose: bool = False
    """Serve all models that it has, under their own names, besides those of this file; those of a command while it
    runs.
    """
    options: dict[str, Any] = Field(default={}, repr=False)
    """Attributes of the config object of a backend from another package."""

    server: str | None = None
    """llamacpp: a `llama-server` binary to run instead of the wheel."""
    models_dir: str | None = None
    """llamacpp: directory of .gguf files."""

    command: list[str] | None = Field(default=None, min_length=1, repr=False)
    """A server to start and supervise: program and arguments, without a shell. ${PORT} is the port for it."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """The port for it; default: a free one."""
    ready: str | None = Field(default=None, pattern="^/")
    """Path that returns 200 once it can serve. Default: /health; of an ollama /api/version."""
    env: dict[str, str] = Field(default={}, repr=False)
    """Variables of its environment, besides those that locate programs, libraries, devices, models and caches (PATH,
    CUDA_..., HF_HOME, ...) and settings of well-known servers (VLLM_...). Secrets, such as HF_TOKEN, only from here."""
    directory: str | None = None
    """Its working directory; default: that of this file."""
    stop_signal: Literal["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2"] | None = None
    """Asks it to stop. Default: SIGTERM; of a llamacpp SIGINT, so that it outlasts the SIGTERM that a service manager
    sends to all processes."""
    start_timeout: Duration | None = None
    """Seconds without progress (output, computing, memory) after which its start fails; after ten times that it fails
    in any case."""
    stop_timeout: Duration | None = None
    """Seconds from the stop signal until it is killed."""
    memory: Bytes | None = None
    """Main memory that it takes; default: what it took at its last run."""
    gpu_memory: list[BytesOrNone] | None = None
    """Memory that it takes on each GPU; default for vLLM: its --gpu-memory-utilization."""
    sleep: Literal[1, 2] | None = None
    """vLLM with --enable-sleep-mode: the level of sleep in which it waits instead of being stopped."""


class Sampling(Table):
    """`sampling`: parameters of requests that do not set them."""

    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    """0: greedy."""
    top_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    """Only the likeliest tokens whose probabilities add up to this."""
    top_k: int | None = Field(default=None, ge=0)
    """Only so many of the likeliest tokens; 0: all."""
    min_p: Fraction | None = None
    """Only tokens of at least this share of the probability of the likeliest one."""
    seed: int | None = Field(default=None, ge=0, le=2**32 - 1)
    """Equal requests with one seed have equal responses."""
    stop: list[str] | None = None
    """Texts that end the response, and are not part of it."""
    repeat_penalty: float | None = Field(default=None, gt=0, le=2, allow_inf_nan=False)
    """Above 1: tokens of the text so far are less likely."""
    presence_penalty: float | None = Field(default=None, ge=-2, le=2, allow_inf_nan=False)
    """Above 0: tokens that the response has already are less likely."""
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2, allow_inf_nan=False)
    """The same, the more so the more often it has them."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Most tokens to generate."""


class Lora(Table):
    """A LoRA adapter."""

    file: str = Field(min_length=1)
    """GGUF file of the adapter."""
    scale: float = Field(default=1.0, allow_inf_nan=False)
    """How strongly it applies."""


class Speculation(Table):
    """`speculation`: tokens that are guessed ahead, which the model verifies together."""

    type: str = Field(min_length=1)
    """"draft": by a smaller model of the same vocabulary; or one of llama-server's --spec-type."""
    file: str | None = None
    """GGUF file of the draft model."""
    hub: str | None = None
    """The draft model as `miner models pull` names it."""
    n_max: int | None = Field(default=None, ge=1, le=512)
    """Most tokens to guess ahead."""
    n_min: int | None = Field(default=None, ge=0, le=512)
    """Fewest tokens to verify."""
    p_min: Fraction | None = None
    """A guess that is less likely ends the draft."""
    n_gpu_layers: int | None = Field(default=None, ge=-1)
    """Layers of the draft model in GPU memory."""


class Prices(Table):
    """`price`: what a million tokens cost, in one currency of your own."""

    input: Price = 0.0
    """A million input tokens."""
    cached: Price | None = None
    """Input tokens that were in the cache; default: as `input`."""
    output: Price = 0.0
    """A million output tokens."""


class ModelOptions(Table):
    """What `[models.NAME]` and `[defaults]` may both say."""

    backend: str | None = None
    """A name of [backends]; default: the only one, or "llamacpp" where there is none."""

    context: int | None = Field(default=None, ge=256)
    """llamacpp: tokens of each slot. Default: what fits into memory, up to the trained length."""
    slots: int | None = Field(default=None, ge=1, le=256)
    """llamacpp: requests that are computed at once."""
    threads: int | None = Field(default=None, ge=1, le=512)
    """llamacpp: default: what the cores allow beside the other engines."""
    batch_size: int | None = Field(default=None, ge=32, le=16384)
    """llamacpp: prompt tokens that are computed in one go. Default: 128 on processors alone, 512 where a GPU may."""
    cache_type_k: CacheType | None = None
    """llamacpp: type of the keys in the KV cache. Default: f16."""
    cache_type_v: CacheType | None = None
    """llamacpp: type of the values in the KV cache. Default: f16."""
    cache_ram: int | None = Field(default=None, ge=0)
    """llamacpp: MiB of main memory for the prompts of more conversations than slots."""
    n_gpu_layers: int | None = Field(default=None, ge=-1)
    """llamacpp: layers in GPU memory; -1: all. Default: as many as fit."""
    cpu_moe: bool | None = None
    """llamacpp: keep the experts of all layers in main memory."""
    n_cpu_moe: int | None = Field(default=None, ge=0)
    """llamacpp: keep the experts of the first N layers in main memory."""
    flash_attn: FlashAttention | None = None
    """llamacpp: flash attention. Default: auto."""
    keep_alive: KeepAlive | None = None
    """Seconds, or such as "5m", that it stays loaded after its last request; negative: for ever."""
    priority: int = Field(default=0, ge=-100, le=100)
    """A model is not evicted for one of lower priority while it has requests, and of two that wait the higher loads
    first."""
    keys: list[Annotated[str, Field(min_length=1)]] | None = None
    """Names of the API keys that may use it; default: all."""
    price: Prices | None = None
    """For the ledger."""
    sampling: Sampling = Sampling()
    """Parameters of requests that do not set them."""
    unsupported: Policy | None = None
    """What becomes of parameters that are not supported: as MINER_SERVE_UNSUPPORTED."""
    skip: list[str] = []
    """Parameters that are skipped, and listed in the response, where they are not supported: whatever `unsupported` is,
    unless the request or its key has a policy of its own."""
    refuse: list[str] = []
    """Parameters that are refused where they are not supported: with the same exception."""
    timeout: Duration | None = None
    """Read timeout in seconds; default: the backend's."""


class Model(ModelOptions):
    """`[models.NAME]`: one model that clients can name."""

    file: str | None = None
    """GGUF file: a path (from the directory of this file), or a name in the models directory."""
    hub: str | None = None
    """Model of the hub, such as "owner/name:Q4_K_M", that `miner models pull` has fetched."""
    name: str | None = None
    """Its name at the server; default: NAME, or whatever a command calls its only model."""
    aliases: list[Annotated[str, Field(min_length=1, max_length=200)]] = []
    """Other names; * stands for any characters, as in "claude-*"."""
    listed: bool = True
    """Whether lists of models show it."""
    description: str | None = None
    """For lists of models."""

    pooling: PoolingType | None = None
    """llamacpp: pooling of an embedding model; "rank" for rerankers."""
    mmproj: str | Literal[False] | None = None
    """llamacpp: GGUF file of the vision or audio projector; default: the one beside the model; false: none."""
    lora: list[str | Lora] = []
    """llamacpp: LoRA adapters that are applied to every request."""
    chat_template: str | None = None
    """llamacpp: file with a Jinja template that replaces the model's."""
    speculation: Speculation | None = None
    """llamacpp: tokens that are guessed ahead."""
    flags: dict[str, FlagValue] = {}
    """llamacpp: any other option of llama-server, by its own name without the dashes."""

    pin: bool = False
    """Never evict it, nor unload it when it is idle."""
    preload: bool = False
    """Load it at start."""
    fallbacks: list[str] = []
    """Models that take over generations while its backend is unavailable. Embeddings never change the model."""
    system: str | None = None
    """System prompt of conversations that have none."""


class Defaults(ModelOptions):
    """`[defaults]`: options of all models that do not set them."""

    model: str | None = None
    """The model of requests that name none; default: the only one."""


class Group(Table):
    """`[groups.NAME]`: models that share a limit."""

    models: list[str] = Field(min_length=1)
    """Names of models."""
    max_loaded: int | None = Field(default=None, ge=1)
    """How many of them may be loaded at once; 1: they exclude each other."""
    exclusive: bool = False
    """Whether no other model may be loaded beside them."""
    share_engine: bool = False
    """Whether they must run in one engine: same file and engine options, whatever else differs."""


class Limits(Table):
    """`[limits]`: of all engines that are started here, whatever their kind."""

    memory: Bytes | None = None
    """Main memory, such as "20GiB"; default: four fifths of what is free at start (LLAMACPP_MEMORY_BUDGET)."""
    gpu_memory: list[Bytes] | None = None
    """Memory of each GPU; default: what is free at start."""
    max_loaded: int | None = Field(default=None, ge=1)
    """Engines that are loaded at once."""
    cores: int | None = Field(default=None, ge=1)
    """Processor cores for all engines together; default: those of this process."""
    max_queue: int | None = Field(default=None, ge=0)
    """Requests that wait for a slot."""
    queue_timeout: Duration | None = None
    """Seconds that a request waits for a slot."""
    kv_cache: BytesOrNone | None = None
    """Bytes on disk for the prompts of engines that were evicted; 0: none are kept."""


class ConfigFile(Table):
    """The whole file."""

    variables: dict[str, str] = Field(default={}, repr=False)
    """Values of ${NAME} in other strings; others come from the environment."""
    limits: Limits = Limits()
    """Limits of all engines that are started here together."""
    defaults: Defaults = Defaults()
    """Options of all models that do not set them."""
    backends: dict[Name, Backend] = {}
    """Engines and servers, by names of your own."""
    models: dict[Name, Model] = {}
    """The models, by the names that clients use."""
    groups: dict[Name, Group] = {}
    """Models that share a limit, or an engine."""
