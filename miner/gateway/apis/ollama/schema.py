"""The request bodies of Ollama's API, as structs: an unknown field is refused by its name."""

from __future__ import annotations

from typing import Any

import msgspec


class OllamaOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Ollama's `options`."""

    num_predict: int | None = None
    """-1 and -2: as many tokens as the context holds; 0: the server's default."""
    num_ctx: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None

    typical_p: float | None = None
    tfs_z: float | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    penalize_newline: bool | None = None
    repeat_last_n: int | None = None
    num_keep: int | None = None
    numa: bool | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    num_thread: int | None = None
    low_vram: bool | None = None
    f16_kv: bool | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    draft_num_predict: int | None = None


class OllamaGenerationParams(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The parameters that `/api/chat` and `/api/generate` share."""

    model: str | None = None
    stream: bool | None = None
    """True by default."""
    format: Any = None
    options: OllamaOptions | None = None
    keep_alive: float | str | None = None
    think: bool | str | None = None
    truncate: bool | None = None
    shift: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    debug_render_only: bool | None = msgspec.field(name="_debug_render_only", default=None)
    """Ollama's command line always sends it, as false."""


class OllamaFunction(msgspec.Struct, kw_only=True):
    """The function of a tool call. Other fields come from our own responses and are redundant."""

    name: str
    arguments: dict[str, Any] | None = None


class OllamaCall(msgspec.Struct, kw_only=True):
    """A tool call of an assistant message."""

    function: OllamaFunction
    id: str | None = None


class OllamaMessage(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One message."""

    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    """Base64, without a `data:` prefix."""
    tool_calls: list[OllamaCall] | None = None
    tool_name: str | None = None
    name: str | None = None
    """The older name of tool_name."""
    tool_call_id: str | None = None


class OllamaChatRequest(OllamaGenerationParams, kw_only=True, forbid_unknown_fields=True):
    """The body of `/api/chat`."""

    messages: list[OllamaMessage] | None = None
    tools: list[Any] | None = None


class OllamaGenerateRequest(OllamaGenerationParams, kw_only=True, forbid_unknown_fields=True):
    """The body of `/api/generate`."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    images: list[str] | None = None
    suffix: str | None = None
    template: str | None = None
    context: list[int] | None = None


class EmbeddingParams(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The parameters that both embedding routes share."""

    model: str = ""
    options: OllamaOptions | None = None
    keep_alive: float | str | None = None
    truncate: bool | None = None


class OllamaEmbedRequest(EmbeddingParams, kw_only=True, forbid_unknown_fields=True):
    """The body of `/api/embed`."""

    input: str | list[str]
    dimensions: int | None = None


class OllamaEmbeddingsRequest(EmbeddingParams, kw_only=True, forbid_unknown_fields=True):
    """The body of `/api/embeddings`."""

    prompt: str = ""


class ModelRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A body that is about a model."""

    model: str | None = None
    name: str | None = None
    """The older name of model."""


class OllamaShowRequest(ModelRequest, kw_only=True, forbid_unknown_fields=True):
    """The body of `/api/show`. Ollama's command line sends all of these, most of them empty."""

    verbose: bool | None = None
    system: str | None = None
    template: str | None = None
    options: dict[str, Any] | None = None


class OllamaPullRequest(ModelRequest, kw_only=True, forbid_unknown_fields=True):
    """The body of `/api/pull`."""

    insecure: bool | None = None
    stream: bool | None = None
    """True by default."""
    username: str | None = None
    password: str | None = None


class OllamaCreateRequest(ModelRequest, kw_only=True, forbid_unknown_fields=True, rename={"base": "from"}):
    """The body of `/api/create`."""

    base: str | None = None
    """The model that it is made from: `from`."""
    files: dict[str, str] | None = None
    """Names of uploaded files and their digests."""
    template: str | None = None
    system: str | None = None
    license: str | list[str] | None = None
    parameters: dict[str, Any] | None = None
    messages: list[dict[str, Any]] | None = None
    stream: bool | None = None
    """True by default."""
    adapters: dict[str, str] | None = None
    quantize: str | None = None
    quantization: str | None = None
    draft_files: dict[str, str] | None = None
    draft_quantize: str | None = None
    remote_host: str | None = None
    renderer: str | None = None
    parser: str | None = None
    requires: str | None = None
    info: dict[str, Any] | None = None


class OllamaCopyRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of `/api/copy`."""

    source: str | None = None
    destination: str | None = None


class OllamaDeleteRequest(ModelRequest, kw_only=True, forbid_unknown_fields=True):
    """The body of `/api/delete`."""


class OllamaPushRequest(OllamaPullRequest, kw_only=True, forbid_unknown_fields=True):
    """The body of `/api/push`."""
