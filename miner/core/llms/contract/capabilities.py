"""Capabilities: the words for what backends and models can do, and the check of a request against them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from miner.core.llms.contract.request import REASONING_LEVELS
from miner.core.wire import OPTIONS, ChatRequest, Message
from miner.errors import UnsupportedFeatureError

CAPABILITIES: frozenset[str] = frozenset(
    """chat tools tool_choice json_object json_schema regex grammar reasoning logprobs seed embeddings count_tokens
    images progress rerank emulated prompt_tokens""".split()
) | frozenset(OPTIONS)
"""All words that `capabilities` may hold: features, and the name of each option. "emulated": the model's chat template
has no tools, so they are described in the prompt and calls are parsed from the text.
"""

IGNORABLE: frozenset[str] = frozenset(["tools", "tool_choice", *OPTIONS])
"""Parameters that may be left out when the caller allows it."""

_ALWAYS = frozenset({"timeout", "response_format"})
"""Supported by the base class itself, or checked by the kind of format."""

LENIENT_HINT = 'Leave it out, or pass unsupported="ignore" to have it ignored and listed in response.ignored.'
_UNSET = {"stop": [], "progress": False, "raw": False, "echo": False, "continuous_usage": False}


def _needs(request: ChatRequest) -> Iterator[tuple[str, str]]:
    """Pairs of a capability that the request needs and the parameter that needs it."""
    if request.tools is not None and request.tool_choice != "none":
        yield "tools", "tools"
        if request.tool_choice not in (None, "auto"):
            yield "tool_choice", "tool_choice"
    if request.prompt_tokens is not None:
        yield "prompt_tokens", "prompt"
    if request.response_format is not None:
        yield request.response_format.kind, "response_format"
    for name in OPTIONS:
        value = getattr(request, name)
        # False needs nothing: no reasoning is what a model without it does, and calls beyond the first are dropped
        # here. Zero is a value like any other (seed=0, keep_alive=0, logprobs=0 for the sampled token alone).
        if name in _ALWAYS or value is None or value is False or value == []:
            continue
        yield name, name


def refuse_unsupported(request: ChatRequest, capabilities: frozenset[str], where: str) -> ChatRequest:
    """Return the request without unsupported parameters, if the caller allows to ignore them.

    Raises:
        UnsupportedFeatureError: it does not; names the parameter. Images are content, so they are always refused.
    """
    if "chat" not in capabilities:
        raise UnsupportedFeatureError(f"{where} does not generate text.", param="model", hint="Use a model that does.")
    for capability, param in _needs(request):
        if capability in capabilities:
            continue
        if param != "prompt" and may_ignore(request, param):
            request = drop_param(request, param)
            continue
        wanted = param if capability == param else f"{param} ({capability})"
        raise UnsupportedFeatureError(f"{where} does not support {wanted}.", param=param, hint=LENIENT_HINT)
    if request.messages is not None and any(map(_named, request.messages)):
        request = _refuse_names(request, where)
    if "images" not in capabilities:
        for place, message in enumerate(request.messages or ()):
            if message.images():
                raise UnsupportedFeatureError(f"{where} does not support images.", param=f"messages[{place}].content")
    return request


def _named(message: Message) -> bool:
    """Whether a message names its author. On a tool message it is the function, which engines accept."""
    return message.name is not None and message.role != "tool"


def _refuse_names(request: ChatRequest, where: str) -> ChatRequest:
    """No engine supports an author's name: Ollama drops it, and chat templates (vLLM, llama.cpp) ignore it."""
    messages = request.messages or []
    params = [f"messages[{place}].name" for place, message in enumerate(messages) if _named(message)]
    if not may_ignore(request, "messages"):
        raise UnsupportedFeatureError(f"{where} does not support {params[0]}.", param=params[0], hint=LENIENT_HINT)
    request.resolution.ignored += params
    return replace(
        request, messages=[replace(message, name=None) if _named(message) else message for message in messages]
    )


def may_ignore(request: ChatRequest, param: str) -> bool:
    """Whether the caller allows that this parameter, or a part of it, is left out."""
    allowed = request.ignore_unsupported
    return allowed if isinstance(allowed, bool) else re.split(r"[.\[]", param, maxsplit=1)[0] in allowed


def drop_param(request: ChatRequest, param: str) -> ChatRequest:
    """Return the request without a parameter, which is listed as ignored."""
    note_ignored(request, param)
    return _without(request, param)


def without_ignored(request: ChatRequest) -> ChatRequest:
    """Return the request without any parameter that is listed as ignored."""
    for param in request.resolution.ignored:
        if param in IGNORABLE:
            request = _without(request, param)
    return request


def _without(request: ChatRequest, param: str) -> ChatRequest:
    dropped = ("tools", "tool_choice", "parallel_tool_calls") if param == "tools" else (param,)
    return replace(request, **{name: _UNSET.get(name) for name in dropped})


def note_ignored(request: ChatRequest, param: str) -> None:
    """List a parameter, or a part of one, as ignored or changed."""
    if param not in request.resolution.ignored:
        request.resolution.ignored.append(param)


def nearest_level(request: ChatRequest, levels: Sequence[str]) -> bool | str | None:
    """Return `reasoning` for an engine that has these levels, in rising order. Another level becomes the nearest
    one, and is listed as ignored.
    """
    wanted = request.reasoning
    if not isinstance(wanted, str) or wanted in levels:
        return wanted
    note_ignored(request, "reasoning")
    place = REASONING_LEVELS.index(wanted)
    return min(levels, key=lambda level: abs(REASONING_LEVELS.index(level) - place))
