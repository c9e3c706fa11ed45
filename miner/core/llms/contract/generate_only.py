"""A generate-only backend overrides `generate`, or `chat_completion`, and gets everything else from here.

Its verb is called with the parameters that it declares, no others; what it cannot be told is refused by name.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from miner.core.llms.contract.driver import respond
from miner.core.llms.contract.messages import as_prompt
from miner.core.wire import OPTIONS, ChatRequest, LLMResponse
from miner.errors import BackendProtocolError, UnsupportedFeatureError

if TYPE_CHECKING:
    from miner.core.llms.LLMService import LLMService

__all__ = ["chat", "declared_capabilities", "fill_in"]

_Verb = Callable[..., Awaitable[Any]]
_SETTINGS = ("max_tokens", "temperature", "top_p")


def _parameters(verb: _Verb) -> tuple[frozenset[str], bool]:
    """Names that a verb declares, and whether it takes any others too."""
    parameters = inspect.signature(verb).parameters.values()
    named = frozenset(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)


def declared_capabilities(cls: type[LLMService]) -> frozenset[str]:
    """What can be told to such a backend: chat, and the options that its own verbs declare."""
    able = {"chat", "timeout"}
    for verb, options in ((cls.generate, set(OPTIONS)), (cls.chat_completion, {*OPTIONS, "tools", "tool_choice"})):
        original = _original(verb)
        if original is not None:
            named, _ = _parameters(original)
            able |= named & options
    return frozenset(able)


def fill_in(cls: type[LLMService]) -> None:
    """Make the verbs of a backend's class callable as the contract says: arguments checked, defaults filled in."""
    if not _is_base(cls.generate) and not hasattr(cls.generate, "_miner_original"):
        cls.generate = _filled_in_generate(cls.generate)  # type: ignore[method-assign]
    if not _is_base(cls.chat_completion) and not hasattr(cls.chat_completion, "_miner_original"):
        cls.chat_completion = _filled_in_chat(cls.chat_completion)  # type: ignore[method-assign]


def _is_base(verb: Callable[..., Any]) -> bool:
    """Whether nobody has overridden it."""
    return getattr(verb, "__qualname__", "").startswith("LLMService.")


def _original(verb: Callable[..., Any]) -> _Verb | None:
    """What the backend's author wrote; None where the base class's is in force."""
    if _is_base(verb):
        return None
    return getattr(verb, "_miner_original", verb)


def _filled_in_generate(generate: _Verb) -> Any:
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
        if _original(type(self).generate) is generate:
            return (await respond(self, request)).content
        # Called by super() from a subclass: bounds and retries are those of the call around it.
        await self._resolve(request)
        return await _generated(functools.partial(generate, self), self, request, request.prompt or "")

    checked._miner_original = generate  # type: ignore[attr-defined]
    return checked


def _filled_in_chat(chat_completion: _Verb) -> Any:
    @functools.wraps(chat_completion)
    async def checked(
        self: LLMService,
        messages: Sequence[Any],
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        tools: Sequence[Any] | None = None,
        tool_choice: Any = None,
        **options: Any,
    ) -> LLMResponse:
        request = self._request(
            options, messages=messages, model=model, max_tokens=max_tokens, temperature=temperature, top_p=top_p,
            tools=tools, tool_choice=tool_choice,
        )  # fmt: skip
        if _original(type(self).chat_completion) is chat_completion:
            return await respond(self, request)
        await self._resolve(request)
        return await _completed(functools.partial(chat_completion, self), self, request)

    checked._miner_original = chat_completion  # type: ignore[attr-defined]
    return checked


async def chat(service: LLMService, request: ChatRequest) -> LLMResponse:
    """A whole reply from such a backend. Where it makes text alone it counts no tokens, so `usage` stays None.

    Raises:
        NotImplementedError: its class overrides nothing that makes one.
    """
    cls = type(service)
    generate, chat_completion = _original(cls.generate), _original(cls.chat_completion)
    if chat_completion is not None and (generate is None or request.messages is not None):
        return await _completed(functools.partial(chat_completion, service), service, request)
    if generate is None:
        raise NotImplementedError(f"{cls.__name__} must override generate, chat_completion, _chat or _stream.")
    content = await _generated(functools.partial(generate, service), service, request, as_prompt(request.as_messages()))
    return LLMResponse(content=content, finish_reason="stop", model=request.model)


async def _generated(generate: _Verb, service: LLMService, request: ChatRequest, prompt: str) -> str:
    text = await generate(prompt, **_arguments(generate, service, request))  # by its place, whatever its name
    if not isinstance(text, str):
        raise BackendProtocolError(
            f"{type(service).__name__}.generate returned {type(text).__name__}, not text.", backend=service.name
        )
    return text


async def _completed(chat_completion: _Verb, service: LLMService, request: ChatRequest) -> LLMResponse:
    arguments = _arguments(chat_completion, service, request)
    named, any_other = _parameters(chat_completion)
    for name in ("tools", "tool_choice"):
        if getattr(request, name) is not None and (name in named or any_other):
            arguments[name] = getattr(request, name)
    messages = [msgspec.to_builtins(message) for message in request.as_messages()]
    response = await chat_completion(messages, **arguments)
    if isinstance(response, str):
        return LLMResponse(content=response, finish_reason="stop", model=request.model)
    if not isinstance(response, LLMResponse):
        raise BackendProtocolError(
            f"{type(service).__name__}.chat_completion returned {type(response).__name__}, not an LLMResponse or text.",
            backend=service.name,
        )
    return response


def _arguments(verb: _Verb, service: LLMService, request: ChatRequest) -> dict[str, Any]:
    """What of a request a verb declares; what is set and cannot be told to it is refused by name."""
    named, any_other = _parameters(verb)
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
    return arguments if any_other else {name: value for name, value in arguments.items() if name in named}
