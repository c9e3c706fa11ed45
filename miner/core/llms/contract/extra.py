"""`extra`: fields of an engine's own, merged into the body of a request.

They may not override what was validated: the model, the prompt, limits, and anything that has its own parameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from miner.errors import InvalidRequestError

_NAMES = {
    "model": "model",
    "messages": "messages input inputs system images image_data multi_modal_data multimodal_data prompt_embeds context",
    "prompt": "prompt prompts", "echo": "echo", "suffix": "suffix input_suffix input_prefix",
    "max_tokens": "max_tokens max_completion_tokens max_output_tokens max_new_tokens n_predict num_predict",
    "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p", "seed": "seed",
    "stop": "stop stop_sequences",
    "repeat_penalty": "repeat_penalty repetition_penalty",
    "presence_penalty": "presence_penalty", "frequency_penalty": "frequency_penalty", "logit_bias": "logit_bias",
    "logprobs": "logprobs top_logprobs n_probs",
    "tools": "tools functions", "tool_choice": "tool_choice function_call",
    "parallel_tool_calls": "parallel_tool_calls",
    "response_format": "response_format json_schema grammar format structured_outputs guided_json guided_regex "
    "guided_choice guided_grammar",
    "reasoning": "reasoning reasoning_effort think thinking enable_thinking",
    "keep_alive": "keep_alive", "timeout": "timeout", "raw": "raw", "progress": "return_progress",
    "stream()": "stream stream_options",
}  # fmt: skip
_OWN = {name: parameter for parameter, names in _NAMES.items() for name in names.split()}
_CUTS = ("truncate", "shift", "truncate_prompt_tokens")
"""Fields that let an engine truncate the prompt silently."""
_WRAPPERS = ("extra_body", "extra_query", "extra_headers", "extra")
_NESTED = ("options", "chat_template_kwargs")
"""Objects of an engine's own whose fields are checked too."""


def checked_extra(value: Any) -> dict[str, Any] | None:
    """Return the fields if none of them overrides the request.

    Raises:
        InvalidRequestError: names the field (`extra.model`, `extra.options.num_predict`).
    """
    if value is None:
        return None
    fields = _checked_names(value, "extra")
    for name in _NESTED:
        nested = next((fields[key] for key in fields if key.casefold() == name), None)
        if nested is not None:
            _checked_names(nested, f"extra.{name}")
    return fields


def _checked_names(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        shown = repr(value)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        raise InvalidRequestError(
            f"{where} must be a mapping of the engine's field names to values, not {shown}.", param=where
        )
    for key in value:
        name, field = key.casefold(), f"{where}.{key}"  # Ollama, as Go does, matches field names case-insensitively
        if name in _OWN:
            own = _OWN[name]
            hint = "Use stream() for a stream." if own == "stream()" else f"Use the parameter {own}."
            raise InvalidRequestError(f"{field} would override the request.", param=field, hint=hint)
        if name in _CUTS:
            hint = "Shorten the prompt."
            raise InvalidRequestError(f"{field} lets the engine truncate the prompt.", param=field, hint=hint)
        if name in _WRAPPERS:
            hint = "Put its fields into extra."
            raise InvalidRequestError(f"{field} is not a field of an engine.", param=field, hint=hint)
        if name in _NESTED and key != name:
            raise InvalidRequestError(f"{field} must be spelled {name}.", param=field)
    return dict(value)


def merge_extra(body: dict[str, Any], extra: Mapping[str, Any] | None) -> None:
    """Merge validated fields into the body of a request; an object is merged into the one that is there."""
    for name, value in (extra or {}).items():
        there = body.get(name)
        body[name] = {**there, **value} if isinstance(there, dict) and isinstance(value, Mapping) else value
