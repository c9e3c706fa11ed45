"""LLMService: the contract that every backend keeps and every caller relies on.

Callers use the public verbs. A backend overrides either `generate` (the smallest form, see `smallest.py`) or the hooks
of `hooks.py`, which take a checked ChatRequest.
"""

from __future__ import annotations

import functools
import logging
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from miner.core._typing import override
from miner.core.llms.contract import generate_only as smallest
from miner.core.llms.contract.backend import Hooks
from miner.core.llms.contract.batch import generate_many
from miner.core.llms.contract.capabilities import CAPABILITIES, refuse_unsupported
from miner.core.llms.contract.context_length import check_length, texts_of
from miner.core.llms.contract.driver import respond, stream_batches
from miner.core.llms.contract.embeddings import count_tokens as checked_count
from miner.core.llms.contract.embeddings import embed as checked_embed
from miner.core.llms.contract.embeddings import rerank as checked_rerank
from miner.core.llms.contract.images import check_images
from miner.core.llms.contract.loading import load
from miner.core.llms.contract.request import build_request
from miner.core.llms.contract.stream import LLMStream
from miner.core.models.names import check_name, without_tag
from miner.core.wire import (
    ChatRequest,
    EmbeddingResponse,
    Health,
    LLMChunk,
    LLMResponse,
    ModelInfo,
    RerankResponse,
    TokenUsage,
)
from miner.errors import MinerError, ModelNotFoundError, UnsupportedFeatureError

if TYPE_CHECKING:
    pass

__all__ = ["CAPABILITIES", "LLMChunk", "LLMResponse", "LLMService", "TokenUsage"]

logger = logging.getLogger("miner.backends")

_Close = Callable[["LLMService"], Coroutine[Any, Any, None]]


class LLMService(Hooks):
    """One engine, or a pool of them, behind one interface.

    Close it with `await service.aclose()` or use it in `async with`. One service may be used by many tasks at once.

    Args:
        config: a MinerConfig, any object with such attributes, or None for the environment's settings. It is kept as
            it is (`service.config`) and read when a setting is needed. Nothing is opened here.
    """

    @override
    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__dict__.get("name"):
            words = re.sub(r"(Service|Backend|LLM)+$", "", cls.__name__) or cls.__name__
            cls.name = getattr(cls.__mro__[1], "name", "") or words.lower()
        if cls._chat is LLMService._chat and cls._stream is LLMService._stream:
            smallest.fill_in(cls)
        if "aclose" in cls.__dict__:
            cls.aclose = _ending_calls(cls.__dict__["aclose"])  # type: ignore[method-assign,assignment]

    # Verbs

    async def generate(
        self,
        prompt: str,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        **options: Any,
    ) -> str:
        """The text that the model writes after this prompt.

        The prompt goes through the model's own chat template if it has one, else verbatim; `raw=True` is always
        verbatim.

        Args:
            prompt: any text that is not empty; with raw=True also a list of token ids (vLLM, llama.cpp).
            model: None for the default: DEFAULT_MODEL, else the one that the engine serves.
            max_tokens: tokens to generate at most (DEFAULT_MAX_TOKENS, 512).
            temperature: 0 to 2 (DEFAULT_TEMPERATURE, 0.7); 0 takes the likeliest token always.
            top_p: 0 to 1 (DEFAULT_TOP_P, 0.95); 0 takes the likeliest token, as the least that engines take.
            **options: stop, seed, top_k, min_p, repeat_penalty, presence_penalty, frequency_penalty, logit_bias,
                logprobs, response_format, reasoning, timeout, keep_alive, raw, unsupported, extra. What is not given
                is neutral (no top_k, no min_p, no penalty), whatever the engine's or the model's own default; on
                llama.cpp and Ollama top_p chooses among the 1000 likeliest tokens.

        Raises:
            RequestError: the request cannot be served: InvalidRequestError, UnsupportedFeatureError,
                ModelNotFoundError, ContextLengthError.
            BackendError: the engine, or the way to it, failed.
        """
        request = self._request(
            options, prompt=prompt, model=model, max_tokens=max_tokens, temperature=temperature, top_p=top_p
        )
        return (await respond(self, request)).content

    async def chat_completion(
        self,
        messages: Sequence[Any],
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        tools: Sequence[Any] | None = None,
        tool_choice: Any = None,
        **options: Any,
    ) -> LLMResponse:
        """The model's next turn in a conversation.

        Args:
            messages: turns in OpenAI's form; roles are system, user, assistant and tool.
            tools: functions in OpenAI's form that the model may call.
            tool_choice: auto, none, required, or the name of one tool.

        The other arguments and the errors are those of `generate`.
        """
        request = self._request(
            options, messages=messages, model=model, max_tokens=max_tokens, temperature=temperature, top_p=top_p,
            tools=tools, tool_choice=tool_choice,
        )  # fmt: skip
        return await respond(self, request)

    def stream(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Any] | None = None,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        tools: Sequence[Any] | None = None,
        tool_choice: Any = None,
        **options: Any,
    ) -> LLMStream:
        """The same reply as `generate` or `chat_completion` would give, as it comes.

        Joined chunks equal the whole reply. With `progress=True` chunks tell how far the prompt is read. Wrong
        arguments are refused here; everything else is raised by the iteration.
        """
        request = self._request(
            options, prompt=prompt, messages=messages, model=model, max_tokens=max_tokens, temperature=temperature,
            top_p=top_p, tools=tools, tool_choice=tool_choice,
        )  # fmt: skip
        response = LLMResponse()
        return LLMStream(lambda: stream_batches(self, request, response), response, self._in_flight)

    def generate_many(
        self, prompts: Iterable[Any], *, concurrency: int | None = None, **arguments: Any
    ) -> AsyncIterator[tuple[int, str | Exception]]:
        """Pairs of a prompt's index and its text, or the exception that it met, in order of completion.

        Args:
            prompts: taken one by one as places become free, so it may be endless.
            concurrency: requests at once; None: what the backend says it works on at once.
            **arguments: as for `generate`, the same for all.
        """
        return generate_many(self, prompts, concurrency=concurrency, arguments=arguments)

    async def embed(self, texts: str | Sequence[str], model: str | None = None) -> EmbeddingResponse:
        """One vector for each text.

        Raises:
            UnsupportedFeatureError: the model makes no embeddings.
        """
        return await checked_embed(self, texts, model)

    async def rerank(
        self, query: str, documents: Sequence[str], model: str | None = None, top_n: int | None = None
    ) -> RerankResponse:
        """The documents by how well they answer the query, the best first.

        Args:
            top_n: the best so many; None: all.

        Raises:
            UnsupportedFeatureError: the model compares no texts.
        """
        return await checked_rerank(self, query, documents, model, top_n)

    async def count_tokens(
        self, prompt: str | None = None, *, messages: Sequence[Any] | None = None, model: str | None = None,
        tools: Sequence[Any] | None = None, raw: bool = False,
    ) -> int:  # fmt: skip
        """Tokens that this prompt takes once the chat template is around it.

        Raises:
            UnsupportedFeatureError: the engine cannot count.
        """
        request = self._request({"raw": raw}, prompt=prompt, messages=messages, model=model, tools=tools)
        return await checked_count(self, request)

    async def list_models(self) -> list[ModelInfo]:
        """Models that can be asked for, the default first."""
        default = self._settings.default_model
        return [ModelInfo(id=default)] if default else []

    async def resolve_model(self, name: str | None = None) -> ModelInfo | None:
        """Return the model that a request with this name would use; None if the backend names no models.

        Args:
            name: None for the default: DEFAULT_MODEL, else the one model that the engine serves. Ollama's `:latest` is
                dropped where no model has that name.

        Raises:
            ModelNotFoundError: no such model, or several and none was named; lists what there is.
        """
        if name is not None:
            check_name(name)
        wanted = name or self._settings.default_model or await self._sole_model()
        if wanted is None:
            return None
        try:
            found = await self._get_model(wanted)
        except ModelNotFoundError:
            # Ollama's clients put `:latest` behind any name.
            short = without_tag(wanted)
            if short in ("", wanted):
                raise
            try:
                found = await self._get_model(short)
            except ModelNotFoundError:
                found = None
            if found is None:
                raise
            wanted = short
        info = found if isinstance(found, ModelInfo) else ModelInfo(id=wanted)
        self.models[wanted] = found if found is not None else info
        return info

    async def load_model(self, model: str | None = None, *, keep_alive: float | str | None = None) -> ModelInfo:
        """Make a model ready to answer; no token is generated. Where a server keeps its models loaded while it runs, or
        a backend knows no loading, this makes sure that the model is there.

        Args:
            keep_alive: how long it stays without a request: seconds, or such as "5m"; negative: forever.
        """
        return await load(self, model, keep_alive)

    async def unload_model(self, model: str) -> bool:
        """Let a model go once its requests are done; whether it was loaded.

        Raises:
            UnsupportedFeatureError: the backend's models stay loaded.
        """
        raise UnsupportedFeatureError(f"{self.name} unloads no models: they stay loaded.", param="model")

    def reset_model(self, model: str) -> None:
        """Forget that a model's engine failed: the next request starts it again."""
        raise UnsupportedFeatureError(f"{self.name} has no engines of its own to reset.", param="model")

    def pull_model(self, model: str, *, insecure: bool = False) -> AsyncGenerator[dict[str, Any], None]:
        """Get a model: how far it is, in Ollama's words (`status`, `digest`, `total` and `completed` in bytes), until
        the status is "success". Leaving early ends it; the next one goes on from there.

        Args:
            insecure: Ollama: speak with a registry that has no certificate.
        """
        raise UnsupportedFeatureError(f"{self.name} pulls no models.", param="pull")

    async def health_check(self) -> bool:
        """Whether a request could be served now, or after a load that nothing stands in the way of. Answers within a
        second or two, loads nothing, never raises.
        """
        return bool((await self.health()).state == "ready")

    async def health(self) -> Health:
        """State, reason, what to do, models and the latency of the check. Never raises."""
        began = time.monotonic()
        try:
            health = await self._health()
        except ModelNotFoundError as error:
            default = self._settings.default_model
            named = not default or "DEFAULT_MODEL" in error.message
            reason = error.message if named else f"{error.message} (DEFAULT_MODEL={default})"
            health = Health(state="unavailable", reason=reason, hint=error.hints, models=error.available)
        except MinerError as error:
            health = Health(state="unavailable", reason=error.message, hint=error.hints)
        except Exception as error:  # noqa: BLE001  (a third party's backend may raise anything; this never raises)
            health = Health(state="failed", reason=f"{type(error).__name__}: {error}")
        health.latency = time.monotonic() - began
        missing = not health and "DEFAULT_MODEL" in (health.reason or "")
        if missing and not self._told_missing:  # `health_check` alone would say no forever, and nobody why
            logger.warning("%s", " ".join(filter(None, (health.reason, health.hint))))
        self._told_missing = missing
        return health

    _told_missing = False
    """The log has it that the server lacks DEFAULT_MODEL."""

    async def aclose(self) -> None:
        """Release what is open: connections, engines. Idempotent; a service that is used again opens again.

        Calls in flight, wherever they wait, end with a ServiceClosedError, and nothing of them is sent again.
        """
        await self._in_flight.end()

    async def __aenter__(self) -> LLMService:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def capabilities(self) -> frozenset[str]:
        """What this backend can do at all: words of CAPABILITIES. A model may be able to do less."""
        return smallest.declared_capabilities(type(self))

    @property
    def concurrency(self) -> int:
        """Requests that it is worth sending at once."""
        return 8

    @property
    def queues_requests(self) -> bool:
        """Whether it holds back by itself what its engine cannot work on yet, in a bounded queue that is fair between
        clients (`contract.queueing`). Where it does not, the gateway does.
        """
        return False

    # Shared by the verbs

    def _request(self, options: dict[str, Any], **given: Any) -> ChatRequest:
        """A checked request with the defaults of the settings filled in."""
        unsupported = options.pop("unsupported", None)
        settings = self._settings
        for name in ("max_tokens", "temperature", "top_p"):
            if given.get(name) is None:
                given[name] = getattr(settings, f"default_{name}")
        request = build_request(unsupported=unsupported, options=options, **given)
        check_images(request.messages or (), remote=settings.allow_remote_images)
        return request

    async def _capabilities_of(self, info: ModelInfo, request: ChatRequest) -> frozenset[str] | None:
        """What a model can do, as far as this request has to know; None: what the backend can do."""
        return info.capabilities

    async def _context_of(self, info: ModelInfo) -> int | None:
        """Tokens that a prompt of this model may have at most; None where nobody knows."""
        return info.context_length

    async def _resolve(self, request: ChatRequest) -> ChatRequest:
        """Find the model and return the request as the backend can honour it."""
        info = request.resolution.model or await self.resolve_model(request.model)
        able, where = self.capabilities, self.name
        if info is not None:
            request = replace(request, model=info.id)
            request.resolution.model = info
            known = await self._capabilities_of(info, request)
            if known is not None:
                able, where = known, f"{self.name}'s model {info.id!r}"
            param = "messages" if request.messages is not None else "prompt"
            check_length(
                texts_of(request), await self._context_of(info), where, param, tokens=len(request.prompt_tokens or ())
            )
        request = refuse_unsupported(request, able, where)
        if request.response_format is not None or request.tools is not None:
            request = await self._check_schemas(request, able) or request
        return request


def _ending_calls(aclose: _Close) -> _Close:
    """A backend's `aclose` that ends the calls in flight before it takes away what they wait for."""

    @functools.wraps(aclose)
    async def closing(self: LLMService) -> None:
        await self._in_flight.end()
        await aclose(self)

    return closing
