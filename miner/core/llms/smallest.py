"""The smallest backend: a class that overrides `generate` and nothing else, and gets everything else from here.

Its `generate` is called with the parameters that it declares, no others; what it cannot be told is refused by name.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from miner.core.llms.driver import respond
from miner.core.llms.messages import as_prompt
from miner.core.wire import OPTIONS, ChatRequest, LLMResponse, Message
from miner.errors import BackendProtocolError, UnsupportedFeatureError

if TYPE_CHECKING:
    from miner.core.llms.LLMService import LLMService

__all__ = ["chat", "declared_capabilities", "filled_in"]

_Generate = Callable[..., Awaitable[Any]]
_SETTINGS = ("max_tokens", "temperature", "top_p")


def _parameters(generate: _Generate) -> tuple[frozenset[str], bool]:
    """Names that a `generate` declares, and whether it takes any others too."""
    parameters = inspect.signature(generate).parameters.values()
    named = frozenset(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)


def declared_capabilities(generate: _Generate) -> frozenset[str]:
    """What can be told to such a backend: chat, and the options that its `generate` declares."""
    named, _ = _parameters(generate)
    return frozenset({"chat", "timeout", *(named & set(OPTIONS))})


def filled_in(generate: _Generate) -> _Generate:
    """The backend author's `generate`, callable as the contract says: arguments checked, defaults filled in."""

    @functools.wraps(generate)
    async def checked(
        self: LLMService,
        prompt: str,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        **options: Any,
    ) -> str:
        request = self._request(
            options, prompt=prompt, model=model, max_tokens=max_tokens, temperature=temperature, top_p=top_p
        )
        if getattr(type(self).generate, "_miner_original", None) is generate:
            return (await respond(self, request)).content
        # Called by super() from a subclass: bounds and retries are those of the call around it.
        await self._resolve(request)
        return await _call(functools.partial(generate, self), self, request, request.prompt or "")

    checked._miner_original = generate  # type: ignore[attr-defined]
    return checked


async def chat(service: LLMService, request: ChatRequest) -> LLMResponse:
    """A whole reply from such a backend. It counts no tokens, so `usage` stays None."""
    original = getattr(type(service).generate, "_miner_original", None)
    generate = service.generate if original is None else functools.partial(original, service)
    messages = request.messages or [Message(role="user", content=request.prompt)]
    content = await _call(generate, service, request, as_prompt(messages))
    return LLMResponse(content=content, finish_reason="stop", model=request.model)


async def _call(generate: _Generate, service: LLMService, request: ChatRequest, prompt: str) -> str:
    named, any_other = _parameters(generate)
    arguments: dict[str, Any] = {"model": request.model}
    for name in _SETTINGS:
        value = getattr(request, name)
        if name in named or any_other:
            arguments[name] = value
        elif value != getattr(service._settings, f"default_{name}"):
            raise UnsupportedFeatureError(f"{service.name} does not support {name}.", param=name)
    for name in OPTIONS:
        if name in named and getattr(request, name) not in (None, []):
            arguments[name] = getattr(request, name)
    if not any_other:
        arguments = {name: value for name, value in arguments.items() if name in named}
    text = await generate(prompt, **arguments)  # by its place, whatever the author calls it
    if not isinstance(text, str):
        raise BackendProtocolError(
            f"{type(service).__name__}.generate returned {type(text).__name__}, not text.", backend=service.name
        )
    return text
