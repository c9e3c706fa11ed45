"""Ollama's options and messages as the service takes them."""

from __future__ import annotations

import base64
from collections.abc import Collection
from typing import Any

import msgspec

from miner.core.llms.contract.images import is_base64
from miner.errors import InvalidRequestError, UnsupportedFeatureError
from miner.gateway.apis.fields import logprobs_argument, set_fields
from miner.gateway.apis.ollama.schema import OllamaCall, OllamaGenerationParams, OllamaMessage, OllamaOptions
from miner.gateway.body_structure import MAX_SCHEMA, bounded, check_length
from miner.gateway.dialect import Call

NAMES = {
    "max_tokens": "options.num_predict", "reasoning": "think", "response_format": "format",
    "response_format.json_schema.schema": "format", "logprobs": "top_logprobs",
    **{name: f"options.{name}" for name in ("temperature", "top_p", "top_k", "min_p", "seed", "stop", "repeat_penalty",
                                            "presence_penalty", "frequency_penalty")},
}  # fmt: skip
"""Ollama's fields for the service's parameters."""
_IGNORED = (
    "numa", "num_batch", "num_gpu", "main_gpu", "num_thread", "low_vram", "f16_kv", "use_mmap", "use_mlock",
    "num_keep", "draft_num_predict",
)  # fmt: skip
"""Accepted and listed as ignored: loading a model is up to the operator; no context is ever truncated (num_keep)."""
_NEUTRAL = {"typical_p": (1,), "tfs_z": (1,), "mirostat": (0,), "penalize_newline": (False,)}
"""Values that switch these off."""
_ENGINE = (*_NEUTRAL, "mirostat_tau", "mirostat_eta", "repeat_last_n")
"""Options for those engines that know them by these names."""
_OFF = {
    "seed": (-1,), "min_p": (0,), "repeat_penalty": (1,), "presence_penalty": (0,), "frequency_penalty": (0,),
}  # fmt: skip
"""Values that disable the option."""
_IMAGES = ((b"\x89PNG", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"))


def required_model(name: str | None) -> str:
    """The model's name.

    Raises:
        InvalidRequestError: it is empty.
    """
    if not name or not name.strip():
        raise InvalidRequestError("model is required.", param="model")
    return name


def generation_arguments(request: OllamaGenerationParams, call: Call) -> dict[str, Any]:
    """The service's arguments that both generating routes share. What `num_ctx` means depends on the model:
    `loading.apply_model` decides it.
    """
    arguments: dict[str, Any] = {"model": required_model(request.model)}
    if request.debug_render_only:
        raise UnsupportedFeatureError("Unsupported parameter: '_debug_render_only'.", param="_debug_render_only")
    arguments |= _sampling_arguments(request.options or OllamaOptions(), call)
    response_format = _response_format(request.format)
    if response_format is not None:
        arguments["response_format"] = response_format
    if request.think is not None:
        arguments["reasoning"] = _reasoning(request.think)
    if request.keep_alive is not None:
        arguments["keep_alive"] = request.keep_alive
    # A prompt that is too long is an error here, and a full context ends the response.
    call.ignored += [name for name in ("truncate", "shift") if getattr(request, name)]
    return arguments | logprobs_argument(request.logprobs, request.top_logprobs)


def _sampling_arguments(options: OllamaOptions, call: Call) -> dict[str, Any]:
    count = options.num_predict
    if count is not None and count < -2:
        raise InvalidRequestError(
            f"options.num_predict must be a number of tokens, or -1 for as many as fit, not {count}.",
            param="options.num_predict",
        )
    arguments = set_fields(options, ("temperature", "top_p"))
    if count is not None and count > 0:  # others, 0 included, are unlimited there
        arguments["max_tokens"] = count
    if options.top_k is not None and options.top_k > 0:
        arguments["top_k"] = options.top_k
    arguments |= {name: value for name, value in set_fields(options, _OFF).items() if value not in _OFF[name]}
    if options.stop:
        arguments["stop"] = options.stop
    call.ignored += [f"options.{name}" for name in set_fields(options, _IGNORED)]
    return arguments


def engine_options(options: OllamaOptions, call: Call, engine_fields: Collection[str]) -> dict[str, Any]:
    """Options that only some engines know, for those that do; elsewhere they are skipped or refused, by the policy."""
    known = {}
    for name, value in set_fields(options, _ENGINE).items():
        if value in _NEUTRAL.get(name, ()):
            call.ignored.append(f"options.{name}")
        elif name in engine_fields:
            known[name] = value
        else:
            call.skip(f"options.{name}", changes=name == "typical_p")
    return known


def _response_format(value: Any) -> dict[str, Any] | None:
    if value in (None, ""):
        return None
    if value == "json":
        return {"type": "json_object"}
    if isinstance(value, dict):
        return {"type": "json_schema", "json_schema": {"schema": bounded(value, "format", MAX_SCHEMA)}}
    raise InvalidRequestError(
        f'invalid format: {str(value)[:80]!r}; expected "json" or a valid JSON Schema object.', param="format"
    )


def _reasoning(think: bool | str) -> bool | str:
    if think not in (True, False, "low", "medium", "high", "max"):
        raise InvalidRequestError(
            f'think must be true, false, "low", "medium", "high" or "max", not {think!r}.', param="think"
        )
    return think


class _OpenCalls:
    """The tool calls of a conversation that wait for their results: Ollama's clients often send no ids."""

    def __init__(self) -> None:
        self._open: list[tuple[str, str]] = []
        self._count = 0

    def add(self, call: OllamaCall) -> str:
        """The id of a call, generated where it has none."""
        self._count += 1
        call_id = call.id or f"call_{self._count}"
        self._open.append((call_id, call.function.name))
        return call_id

    def close(self, message: OllamaMessage) -> str:
        """The id of the call whose result a tool message holds: the one that it names, else the first that fits."""
        for place, (call_id, function) in enumerate(self._open):
            if call_id == message.tool_call_id if message.tool_call_id else message.tool_name in (None, "", function):
                del self._open[place]
                return call_id
        self._count += 1
        return message.tool_call_id or f"call_{self._count}"


def convert_messages(messages: list[OllamaMessage], call: Call) -> list[dict[str, Any]]:
    """The messages as the service takes them."""
    check_length(messages, "messages")
    calls = _OpenCalls()
    return [_convert_message(message, f"messages[{place}]", calls, call) for place, message in enumerate(messages)]


def _convert_message(message: OllamaMessage, where: str, calls: _OpenCalls, call: Call) -> dict[str, Any]:
    converted: dict[str, Any] = {
        "role": message.role.lower(),
        "content": content_with_images(message.content or "", message.images, f"{where}.images"),
    }
    if message.thinking:
        converted["reasoning"] = message.thinking
    if message.tool_calls:
        converted["tool_calls"] = [
            {
                "id": calls.add(made),
                "type": "function",
                "function": {"name": made.function.name, "arguments": _arguments(made, where)},
            }
            for made in message.tool_calls
        ]
        converted["content"] = converted["content"] or None
    if converted["role"] == "tool":
        message.tool_name = message.tool_name or message.name
        converted["tool_call_id"] = calls.close(message)
        if message.tool_name:
            converted["name"] = message.tool_name
    else:
        for name in ("name", "tool_name", "tool_call_id"):
            if getattr(message, name):  # Ollama, too, reads them of results alone
                call.skip(f"{where}.{name}", f"{where}: {name} is only allowed with role 'tool'.")
    return converted


def _arguments(call: OllamaCall, where: str) -> str:
    return msgspec.json.encode(bounded(call.function.arguments or {}, f"{where}.tool_calls")).decode()


def content_with_images(text: str, images: list[str] | None, where: str) -> str | list[dict[str, Any]]:
    """The text, or the parts for a text with its images."""
    if not images:
        return text
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    for place, image in enumerate(images):
        parts.append({"type": "image_url", "image_url": {"url": _image_url(image, f"{where}[{place}]")}})
    return parts


def _image_url(data: str, where: str) -> str:
    """A `data:` URL of a bare base64 image, typed by its first bytes."""
    if not is_base64(data):
        raise InvalidRequestError(f"{where} is not valid base64.", param=where)
    head = base64.b64decode(data[:32])
    for magic, kind in _IMAGES:
        if head.startswith(magic):
            return f"data:image/{kind};base64,{data}"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return f"data:image/webp;base64,{data}"
    raise InvalidRequestError(f"{where} is not a PNG, JPEG, GIF or WebP image.", param=where)
