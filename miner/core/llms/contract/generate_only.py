"""A generate-only backend overrides `generate` or `chat_completion` and no hook.

Its verb is called with the parameters that it declares; a request that sets another one is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any

import msgspec

from miner.core.llms.contract.backend import Backend
from miner.core.llms.contract.messages import as_prompt
from miner.core.wire import OPTIONS, UNLIMITED, ChatRequest, LLMResponse
from miner.errors import BackendProtocolError, UnsupportedFeatureError

Verb = Callable[..., Awaitable[Any]]
"""`generate` or `chat_completion` as the backend's class defines it: a function of the instance and the arguments."""
_WITH_DEFAULT = ("max_tokens", "temperature", "top_p")


@lru_cache
def _parameters(verb: Verb) -> tuple[frozenset[str], bool]:
    """Names that a verb declares, and whether it takes any keyword."""
    parameters = inspect.signature(verb).parameters.values()
    named = frozenset(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)


def declared_options(verb: Verb, *others: str) -> frozenset[str]:
    """Return the options, and which of these others, that a verb declares."""
    return _parameters(verb)[0] & {*OPTIONS, *others}


async def call_generate(backend: Backend, generate: Verb, request: ChatRequest) -> LLMResponse:
    """Return the text of the backend's own `generate`. It counts no tokens, so `usage` stays None."""
    # The prompt is passed by position: the parameter may have any name.
    text = await generate(backend, as_prompt(request.as_messages()), **_arguments(backend, generate, request))
    if not isinstance(text, str):
        raise _wrong_type(backend, "generate", text, "text")
    return LLMResponse(content=text, finish_reason="stop", model=request.model)


async def call_chat_completion(backend: Backend, chat_completion: Verb, request: ChatRequest) -> LLMResponse:
    """Return the response of the backend's own `chat_completion`, which may be text."""
    arguments = _arguments(backend, chat_completion, request)
    named, any_keyword = _parameters(chat_completion)
    for name in ("tools", "tool_choice"):
        if getattr(request, name) is not None and (name in named or any_keyword):
            arguments[name] = getattr(request, name)
    messages = [msgspec.to_builtins(message) for message in request.as_messages()]
    response = await chat_completion(backend, messages, **arguments)
    if isinstance(response, str):
        return LLMResponse(content=response, finish_reason="stop", model=request.model)
    if not isinstance(response, LLMResponse):
        raise _wrong_type(backend, "chat_completion", response, "an LLMResponse or text")
    return response


def _arguments(backend: Backend, verb: Verb, request: ChatRequest) -> dict[str, Any]:
    """The parameters of a request that a verb declares; one that is set and not declared is refused."""
    named, any_keyword = _parameters(verb)
    arguments: dict[str, Any] = {"model": request.model}
    for name in _WITH_DEFAULT:
        value, default = getattr(request, name), getattr(backend._settings, f"default_{name}")
        if name == "max_tokens" and value == UNLIMITED:
            value = default  # such a backend counts to it
        if name in named or any_keyword:
            arguments[name] = value
        elif value != default:
            raise UnsupportedFeatureError(f"{backend.name} does not support {name}.", param=name)
    for name in OPTIONS:
        if name in named and getattr(request, name) not in (None, []):
            arguments[name] = getattr(request, name)
    return arguments if any_keyword else {name: value for name, value in arguments.items() if name in named}


def _wrong_type(backend: Backend, verb: str, returned: object, expected: str) -> BackendProtocolError:
    return BackendProtocolError(
        f"{type(backend).__name__}.{verb} returned {type(returned).__name__}, not {expected}.", backend=backend.name
    )
