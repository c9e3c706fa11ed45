"""What Ollama's resources share: times, sampling options, formats, log probabilities."""

from __future__ import annotations

import base64
import time
from typing import Any

import msgspec

from miner.core.llms.contract.durations import seconds_of
from miner.core.llms.contract.images import is_base64
from miner.core.wire import FinishReason, Timings, TokenLogprob, TokenUsage
from miner.errors import InvalidRequestError, UnsupportedFeatureError
from miner.gateway.body_limits import MAX_SCHEMA, bounded

__all__ = [
    "NAMES", "STREAM_TYPE", "Common", "Named", "OllamaOptions", "counts", "done_reason", "image_url", "logprob_entries",
    "model_of", "now", "sampling", "unloads",
]  # fmt: skip

STREAM_TYPE = "application/x-ndjson"

_LOADING = (
    "numa", "num_batch", "num_gpu", "main_gpu", "num_thread", "low_vram", "f16_kv", "use_mmap", "use_mlock",
    "num_keep", "draft_num_predict", "repeat_last_n",
)  # fmt: skip
"""Accepted and told as ignored: how a model is loaded is the operator's affair, nothing is ever cut out of a context
(num_keep), and each engine has its own span for the repeat penalty.
"""
_NEUTRAL = {"typical_p": (1,), "tfs_z": (1,), "mirostat": (0,), "penalize_newline": (False,)}
"""Accepted where they switch themselves off; no engine here knows them."""
_OFF = {
    "seed": (-1,), "min_p": (0,), "repeat_penalty": (1,), "presence_penalty": (0,), "frequency_penalty": (0,),
}  # fmt: skip
"""Values that ask for nothing."""
_IMAGES = ((b"\x89PNG", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"))


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


NAMES = {
    "max_tokens": "options.num_predict", "reasoning": "think", "response_format": "format",
    "response_format.json_schema.schema": "format", "logprobs": "top_logprobs",
    **{name: f"options.{name}" for name in ("temperature", "top_p", "top_k", "min_p", "seed", "stop", "repeat_penalty",
                                            "presence_penalty", "frequency_penalty")},
}  # fmt: skip
"""The service's names of what has another one here."""


class Common(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What `/api/chat` and `/api/generate` share."""

    model: str = ""
    stream: bool | None = None
    """True unless told otherwise."""
    format: Any = None
    options: OllamaOptions | None = None
    keep_alive: float | str | None = None
    think: bool | str | None = None
    truncate: bool | None = None
    shift: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    debug_render_only: bool = msgspec.field(name="_debug_render_only", default=False)
    """Ollama's command line always sends it, as false."""


class Named(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A body that names a model."""

    model: str = ""
    name: str = ""
    """What `model` was called once."""

    def named(self) -> str:
        """The model's name."""
        return model_of(self.model or self.name)


def model_of(name: str) -> str:
    """The model's name, or Ollama's complaint that there is none."""
    if not name.strip():
        raise InvalidRequestError("model is required.", param="model")
    return name


def sampling(asked: Common, ignored: list[str]) -> dict[str, Any]:
    """The arguments of the service that both generating routes have. `num_ctx` and a `num_predict` below zero are left
    to who knows the model.
    """
    arguments: dict[str, Any] = {"model": model_of(asked.model)}
    if asked.debug_render_only:
        raise UnsupportedFeatureError("_debug_render_only is not supported.", param="_debug_render_only")
    _options(asked.options or OllamaOptions(), arguments, ignored)
    wanted = _format(asked.format)
    if wanted is not None:
        arguments["response_format"] = wanted
    if asked.think is not None:
        arguments["reasoning"] = _thoughts(asked.think)
    if asked.keep_alive is not None:
        arguments["keep_alive"] = asked.keep_alive
    # A prompt that is too long is an error here, and a context that is full ends the reply.
    ignored += [name for name in ("truncate", "shift") if getattr(asked, name)]
    if asked.logprobs:
        arguments["logprobs"] = asked.top_logprobs or 0
    elif asked.top_logprobs:
        raise InvalidRequestError("top_logprobs needs logprobs: true.", param="top_logprobs")
    return arguments


def _options(options: OllamaOptions, arguments: dict[str, Any], ignored: list[str]) -> None:
    count = options.num_predict
    if count is not None and count < -2:
        raise InvalidRequestError(
            f"options.num_predict must be a number of tokens, or -1 for as many as fit, not {count}.",
            param="options.num_predict",
        )
    if count is not None and count > 0:
        arguments["max_tokens"] = count
    for name in ("temperature", "top_p"):
        value = getattr(options, name)
        if value is not None:
            arguments[name] = value
    if options.top_k is not None and options.top_k > 0:
        arguments["top_k"] = options.top_k
    for name, off in _OFF.items():
        value = getattr(options, name)
        if value is not None and value not in off:
            arguments[name] = value
    if options.stop:
        arguments["stop"] = options.stop
    for name, neutral in _NEUTRAL.items():
        value = getattr(options, name)
        if value is not None and value not in neutral:
            raise UnsupportedFeatureError(
                f"options.{name} is not supported.", param=f"options.{name}", hint="Leave it out."
            )
    names = (*_LOADING, *_NEUTRAL, "mirostat_tau", "mirostat_eta")
    ignored += [f"options.{name}" for name in names if getattr(options, name) is not None]


def _format(value: Any) -> dict[str, Any] | None:
    if value in (None, ""):
        return None
    if value == "json":
        return {"type": "json_object"}
    if isinstance(value, dict):
        return {"type": "json_schema", "json_schema": {"schema": bounded(value, "format", MAX_SCHEMA)}}
    raise InvalidRequestError(
        f'invalid format: {str(value)[:80]!r}; expected "json" or a valid JSON Schema object.', param="format"
    )


def _thoughts(value: bool | str) -> bool | str:
    if isinstance(value, bool):
        return value
    if value not in ("low", "medium", "high", "max"):
        raise InvalidRequestError(
            f'think must be true, false, "low", "medium", "high" or "max", not {value!r}.', param="think"
        )
    return value


def unloads(keep_alive: float | str | None) -> bool:
    """Whether a model is to go at once: 0, "0", "0s"."""
    return keep_alive is not None and seconds_of(keep_alive) == 0


def image_url(data: str, where: str) -> str:
    """A `data:` URL of a bare base64 image, whose kind its first bytes tell."""
    if not is_base64(data):
        raise InvalidRequestError(f"{where} is not base64.", param=where)
    head = base64.b64decode(data[:32])
    for sign, kind in _IMAGES:
        if head.startswith(sign):
            return f"data:image/{kind};base64,{data}"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return f"data:image/webp;base64,{data}"
    raise InvalidRequestError(f"{where} is not a PNG, JPEG, GIF or WebP image.", param=where)


def now() -> str:
    """The time as Ollama writes it, in UTC to the nanosecond."""
    seconds, rest = divmod(time.time_ns(), 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"


def done_reason(reason: FinishReason | None) -> str:
    """Ollama's word; with calls it says "stop" too. Ends that it has no word for are given in ours."""
    return reason if reason in ("length", "content_filter", "repetition", "unknown") else "stop"


def counts(usage: TokenUsage | None, timings: Timings | None) -> dict[str, int]:
    """Counts and durations (nanoseconds) of the last line; what is zero or unknown is left out, as by Ollama.

    Where the engine does not tell, reading the prompt lasted until the first token, and the rest was writing.
    """
    usage, timings = usage or TokenUsage(), timings or Timings()
    first = timings.time_to_first_token
    prefill, decode = timings.prefill, timings.decode
    if prefill is None and first is not None:
        prefill = max(first - (timings.load or 0) - (timings.queue or 0), 0)
    if decode is None and first is not None and timings.total is not None:
        decode = timings.total - first
    told = {
        "total_duration": _nanoseconds(timings.total),
        "load_duration": _nanoseconds(timings.load),
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_duration": _nanoseconds(prefill),
        "eval_count": usage.completion_tokens,
        "eval_duration": _nanoseconds(decode),
    }
    return {name: value for name, value in told.items() if value}


def _nanoseconds(seconds: float | None) -> int:
    return round(seconds * 1e9) if seconds is not None else 0


def logprob_entries(entries: list[TokenLogprob]) -> list[dict[str, Any]]:
    """Log probabilities of tokens, each with its alternatives."""
    return [
        {
            **_logprob(entry),
            **({"top_logprobs": [_logprob(o) for o in entry.alternatives]} if entry.alternatives else {}),
        }
        for entry in entries
    ]


def _logprob(entry: TokenLogprob) -> dict[str, Any]:
    raw = entry.bytes if entry.bytes is not None else list(entry.token.encode())
    return {"token": entry.token, "logprob": entry.logprob, "bytes": raw}
