"""Presets: what a created model brings along for its requests, applied where the request does not say otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from miner.core.llms.contract.messages import checked_messages
from miner.core.llms.contract.request import build_request
from miner.core.models.created import Recipe
from miner.core.wire import UNLIMITED, ChatRequest, Message, Preset

_NAMES = {"num_predict": "max_tokens"}
"""Ollama's names of parameters that have another one here."""
_SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "seed", "stop", "repeat_penalty", "presence_penalty", "frequency_penalty",
)  # fmt: skip
_OFF: dict[str, tuple[Any, ...]] = {"seed": (-1,), "num_predict": (0,), "repeat_penalty": (0,)}
"""Values that set nothing."""


def preset_of(recipe: Recipe) -> Preset:
    """The preset of a created model.

    Raises:
        InvalidRequestError: a parameter or a message is invalid; names it.
    """
    return replace(
        preset_of_options(recipe.parameters, system=recipe.system),
        messages=checked_messages(_plain(recipe.messages)) if recipe.messages else [],
    )


def preset_of_options(parameters: Mapping[str, Any], *, system: str = "") -> Preset:
    """A preset of these parameters, by their names here or by Ollama's.

    Raises:
        InvalidRequestError: one is invalid; names it.
    """
    arguments: dict[str, Any] = {"max_tokens": 1, "temperature": 1.0, "top_p": 1.0}
    options: dict[str, Any] = {}
    given = []
    for name, value in parameters.items():
        ours = _NAMES.get(name, name)
        if value is None or value in _OFF.get(name, ()) or (ours not in _SAMPLING and ours != "max_tokens"):
            continue
        if ours == "max_tokens" and isinstance(value, (int, float)) and value < 0:
            continue  # as without it
        given.append(ours)
        (arguments if ours in arguments else options)[ours] = value
    request = build_request(prompt="x", options=options, **arguments)
    return Preset(system=system, parameters={name: getattr(request, name) for name in given})


def _plain(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"role": message.get("role"), "content": message.get("content") or ""} for message in messages]


def apply_preset(request: ChatRequest, preset: Preset) -> ChatRequest:
    """The request with the preset's parameters where it has none, and its messages before those of the request."""
    changes: dict[str, Any] = {}
    for name, value in preset.parameters.items():
        current = getattr(request, name)
        if (
            current is None
            or current == []
            or name in request.defaulted
            or (name, current) == ("max_tokens", UNLIMITED)
        ):
            changes[name] = value
    if request.messages is not None or (request.prompt is not None and not _is_verbatim(request)):
        before = _before(request, preset)
        if before is not None:
            changes |= {"prompt": None, "messages": before}
    return replace(request, **changes) if changes else request


def _is_verbatim(request: ChatRequest) -> bool:
    return request.raw or request.prompt_tokens is not None or request.suffix is not None


def _before(request: ChatRequest, preset: Preset) -> list[Message] | None:
    """The conversation with the preset's system prompt, unless it has one, and messages; None: unchanged."""
    messages = request.as_messages()
    system = [message for message in messages[:1] if message.role == "system"]
    rest = messages[len(system) :]
    if not system and preset.system:
        system = [Message(role="system", content=preset.system)]
    elif not preset.messages:
        return None
    # A context has them already.
    own = [] if request.context else [one for one in preset.messages if one.role != "system" or not system]
    return [*system, *own, *rest]
