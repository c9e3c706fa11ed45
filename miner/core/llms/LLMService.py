"""LLMService: one interface over every engine, and the base class of every backend."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from types import MethodType
from typing import Any, Self

from msgspec.structs import replace

from miner.core._typing import override
from miner.core.llms.contract.backend import Backend
from miner.core.llms.contract.batch import generate_many
from miner.core.llms.contract.capabilities import CAPABILITIES
from miner.core.llms.contract.driver import run, run_stream
from miner.core.llms.contract.generate_only import Verb, call_chat_completion, call_generate, declared_options
from miner.core.llms.contract.images import check_images
from miner.core.llms.contract.model_management import ModelManagement
from miner.core.llms.contract.pooling import count_tokens, embed, rerank, tokenize
from miner.core.llms.contract.request import build_request, seconds_of
from miner.core.llms.contract.stream import Batches, LLMStream
from miner.core.llms.contract.vectors import Texts
from miner.core.subjects import subject
from miner.core.wire import (
    ChatRequest,
    EmbeddingResponse,
    Health,
    LLMChunk,
    LLMResponse,
    ModelInfo,
    RerankResponse,
    Token,
    TokenUsage,
)
from miner.errors import InvalidRequestError, MinerError, ModelNotFoundError, UnsupportedFeatureError

__all__ = ["CAPABILITIES", "LLMChunk", "LLMResponse", "LLMService", "TokenUsage"]

logger = logging.getLogger("miner.backends")

_WITH_DEFAULT = ("max_tokens", "temperature", "top_p")


class LLMService(ModelManagement):
    """One engine, or a pool of them, behind one interface.

    Close it with `await service.aclose()` or use it in `async with`. One service may be used by many tasks at once.

    A backend overrides the hooks of `contract/backend.py`, which get a validated ChatRequest, or as a generate-only
    backend just `generate(self, prompt, model, max_tokens, temperature, top_p)` or `chat_completion`. On its
    instances `__new__` replaces `generate` and `chat_completion` by the base class's, which validate, apply defaults,
    timeouts and retries, and then call the class's own with the parameters that it declares.

    Args:
        config: a MinerConfig, any object with some of its attributes, or None for the environment's settings. It is
            kept as it is (`service.config`) and read when a setting is needed. Nothing is opened here.
    """

    @override
    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__dict__.get("name"):
            words = re.sub(r"(Service|Backend|LLM)+$", "", cls.__name__) or cls.__name__
            cls.name = getattr(cls.__mro__[1], "name", "") or words.lower()

    @override
    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        service = super().__new__(cls, *args, **kwargs)
        if cls._chat is Backend._chat and cls._stream is Backend._stream:
            for verb in ("generate", "chat_completion"):
                if _own(cls, verb) is not None:
                    vars(service)[verb] = MethodType(getattr(LLMService, verb), service)
        if _own(cls, "aclose") is not None:
            vars(service)["aclose"] = MethodType(LLMService._end_calls_and_close, service)
        return service

    @override
    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes for a copy, which gets bound verbs of its own from `__new__`."""
        return {
            name: value
            for name, value in vars(self).items()
            if not (isinstance(value, MethodType) and value.__self__ is self)
        }

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
        """Return the text that the model generates for a prompt.

        The prompt is one user message of the model's chat template if it has one, else it is sent verbatim.

        Args:
            prompt: text; with `raw=True` also a list of token ids (vLLM, llama.cpp).
            model: None for the default: DEFAULT_MODEL, else the one model that the engine serves.
            max_tokens: most tokens to generate (DEFAULT_MAX_TOKENS, 512); -1: until the context ends. A third-party
                backend that counts them by itself gets DEFAULT_MAX_TOKENS for -1.
            temperature: 0 to 2 (DEFAULT_TEMPERATURE, 0.7); 0 is greedy decoding.
            top_p: 0 to 1 (DEFAULT_TOP_P, 0.95); 0 is greedy decoding.
            **options: those that are not passed are off, whatever the engine's or the model's own defaults.
                Sampling: seed, top_k, min_p, repeat_penalty, presence_penalty, frequency_penalty, logit_bias. On
                llama.cpp and Ollama top_p samples from the 1000 most likely tokens.
                Output: stop, logprobs (True, or the number of alternatives), response_format (OpenAI's form, a JSON
                Schema, or a pydantic, msgspec or dataclass type), reasoning (True, False or an effort such as "low").
                The call: timeout (seconds, or a mapping with first, between and total), keep_alive, raw (send the
                prompt verbatim), suffix (the text after a gap that the model fills, after the prompt), extra (fields
                of the engine's own), unsupported ("error"; "ignore", or a list of options, to leave out and list in
                `LLMResponse.ignored` what the backend does not support).

        Raises:
            RequestError: the request cannot be served: InvalidRequestError, UnsupportedFeatureError,
                ModelNotFoundError, ContextLengthError.
            BackendError: the engine, or the connection to it, failed.
        """
        request = self._request(
            options, prompt=prompt, model=model, max_tokens=max_tokens, temperature=temperature, top_p=top_p
        )
        return (await self._run_request(request)).content

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
        """Return the assistant's next message in a conversation.

        Args:
            messages: as in OpenAI's API; roles are system, developer, user, assistant and tool.
            tools: functions that the model may call, as in OpenAI's API.
            tool_choice: auto, none, required, or the name of one tool.

        Other arguments and errors are those of `generate`, besides `parallel_tool_calls` among the options.
        """
        request = self._request(
            options, messages=messages, model=model, max_tokens=max_tokens, temperature=temperature, top_p=top_p,
            tools=tools, tool_choice=tool_choice,
        )  # fmt: skip
        return await self._run_request(request)

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
        prompt_usage: bool = False,
        **options: Any,
    ) -> LLMStream:
        """Return the response to `prompt` (as for `generate`) or `messages` (as for `chat_completion`) as a stream.

        The joined chunks equal the non-streaming response. With `progress=True` chunks also report the progress of
        queue, load and prefill, with `continuous_usage=True` the usage so far (`usage_so_far`), with
        `prompt_usage=True` the first chunk with tokens has the prompt's on engines that have counted them by then
        (llama.cpp, vLLM). Invalid arguments are refused here; all other errors are raised by the iteration.
        """
        request = self._request(
            options, prompt=prompt, messages=messages, model=model, max_tokens=max_tokens, temperature=temperature,
            top_p=top_p, tools=tools, tool_choice=tool_choice,
        )  # fmt: skip
        if prompt_usage:
            request = replace(request, prompt_usage=True)
        response = LLMResponse()
        return LLMStream(lambda: self._stream_request(request, response), response, self._in_flight)

    def generate_many(
        self, prompts: Iterable[Any], *, concurrency: int | None = None, **arguments: Any
    ) -> AsyncIterator[tuple[int, str | Exception]]:
        """Yield pairs of a prompt's index and its text, or its exception, in order of completion.

        Args:
            prompts: consumed as slots become free, so it may be endless.
            concurrency: requests at once; None for the `concurrency` of the model's backend.
            **arguments: those of `generate`, the same for all.
        """
        if concurrency is None:
            model = arguments.get("model")
            concurrency = self.concurrency_of(model) or self.backend_of(model).concurrency
        return generate_many(
            lambda prompt: self.generate(prompt, **arguments),
            prompts,
            concurrency=concurrency,
            in_flight=self._in_flight,
        )

    async def embed(self, texts: Texts, model: str | None = None, dimensions: int | None = None) -> EmbeddingResponse:
        """Return one embedding vector for each text.

        Args:
            texts: one or several; each may be the ids of its tokens (vLLM, llama.cpp).
            dimensions: cut the vectors to so many and scale them to unit length again; vLLM does so for models that
                were trained for it only. More than the model has are refused.

        Raises:
            UnsupportedFeatureError: the model does not support embeddings.
        """
        return await embed(self, texts, model, dimensions)

    async def rerank(
        self, query: str, documents: Sequence[str], model: str | None = None, top_n: int | None = None
    ) -> RerankResponse:
        """Return the documents by their relevance to the query, most relevant first.

        Args:
            top_n: return only so many; None for all.

        Raises:
            UnsupportedFeatureError: the model does not rerank.
        """
        return await rerank(self, query, documents, model, top_n)

    async def count_tokens(
        self, prompt: str | None = None, *, messages: Sequence[Any] | None = None, model: str | None = None,
        tools: Sequence[Any] | None = None, raw: bool = False, reasoning: bool | str | None = None,
    ) -> int:  # fmt: skip
        """Return the number of tokens of a prompt or a conversation, its chat template included.

        Args:
            reasoning: as for a response; some templates write it into the prompt (counted on llama.cpp).

        Raises:
            UnsupportedFeatureError: the engine cannot count.
        """
        options = {"raw": raw, "reasoning": reasoning, "unsupported": ["reasoning"]}
        return await self._count_request(
            self._request(options, prompt=prompt, messages=messages, model=model, tools=tools)
        )

    async def tokenize(self, text: str, model: str | None = None, *, special: bool = True) -> list[Token]:
        """Return the tokens of a text, without a chat template (llama.cpp, vLLM, and servers that have `/tokenize`).

        Args:
            special: with the special tokens that the model has at the beginning (and end) of a prompt.

        Raises:
            UnsupportedFeatureError: the engine does not tell them.
        """
        return await tokenize(self, text, model, special=special)

    async def load_model(self, model: str | None = None, *, keep_alive: float | str | None = None) -> ModelInfo:
        """Load a model without generating a token. Where models stay loaded, or a backend has no loading, this checks
        that the model exists.

        Args:
            keep_alive: how long it stays loaded without a request: seconds, or a string such as "5m"; negative for
                ever.
        """
        if keep_alive is not None:
            if seconds_of(keep_alive) == 0:
                raise InvalidRequestError(
                    "keep_alive=0 would unload the model at once.", param="keep_alive", hint="Use unload_model."
                )
            if "keep_alive" not in self.capabilities:
                raise UnsupportedFeatureError(
                    f"{subject(self.name)} does not support keep_alive: its models stay loaded.", param="keep_alive"
                )
        with self._in_flight.call():
            info = await self.resolve_model(model)
            # A backend that names no models has nothing to load: its own name stands for its model.
            return await self._load(info, keep_alive) if info is not None else ModelInfo(id=self.name)

    async def health_check(self) -> bool:
        """Return whether a request could be served now, or after loading its model. Takes a second or two at most,
        loads nothing, never raises.
        """
        return bool((await self.health()).state == "ready")

    async def health(self) -> Health:
        """Return state, reason, hints, models and the latency of the check. Never raises."""
        start = time.monotonic()
        try:
            health = await self._health()
        except MinerError as error:
            health = Health(state="unavailable", reason=error.message, hint=error.hints)
            if isinstance(error, ModelNotFoundError):
                health.models = error.available
                default = self._settings.default_model
                if default and "DEFAULT_MODEL" not in error.message:
                    health.reason = f"{error.message} (DEFAULT_MODEL={default})"
        except Exception as error:  # noqa: BLE001  (a third party's backend may raise anything)
            health = Health(state="failed", reason=f"{type(error).__name__}: {error}")
        health.latency = time.monotonic() - start
        missing = not health and "DEFAULT_MODEL" in (health.reason or "")
        if missing and not self._logged_missing:  # `health_check` alone would be False forever, for no visible reason
            logger.warning("%s", " ".join(filter(None, (health.reason, health.hint))))
        self._logged_missing = missing
        return health

    _logged_missing = False
    """Whether it was logged that the server lacks DEFAULT_MODEL."""

    async def aclose(self) -> None:
        """Close connections and engines. Idempotent; a service that is used again opens them again.

        Calls in flight end with a ServiceClosedError, wherever they wait, and are not retried.
        """
        await self._in_flight.end()
        await self._close_resources()

    async def _end_calls_and_close(self) -> None:
        """`aclose` of an instance whose class overrides it: end the calls in flight, then close."""
        await self._in_flight.end()
        await type(self).aclose(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    @override
    def capabilities(self) -> frozenset[str]:
        """What this backend supports: words of CAPABILITIES. A model may support less."""
        able = super().capabilities
        for verb, others in (("generate", ()), ("chat_completion", ("tools", "tool_choice"))):
            own = _own(type(self), verb)
            if own is not None:
                able |= declared_options(own, *others)
        return able

    # Between the verbs and the hooks

    def _request(self, options: dict[str, Any], **arguments: Any) -> ChatRequest:
        """Validate the arguments of a verb, with the settings' defaults for those that are None."""
        settings = self._settings
        defaulted = frozenset([name for name in _WITH_DEFAULT if arguments.get(name) is None])
        for name in defaulted:
            arguments[name] = getattr(settings, f"default_{name}")
        unsupported = options.pop("unsupported", None)
        if unsupported is None:
            defaulted |= {"ignore_unsupported"}
        request = build_request(unsupported=unsupported, options=options, defaulted=defaulted, **arguments)
        check_images(request.messages or (), remote=settings.allow_remote_images)
        return request

    async def _run_request(self, request: ChatRequest) -> LLMResponse:
        """Return the response to a validated request."""
        return await run(self, request)

    async def _count_request(self, request: ChatRequest) -> int:
        """Return the tokens of a validated request's prompt."""
        return await count_tokens(self, request)

    def _stream_request(self, request: ChatRequest, response: LLMResponse) -> Batches:
        """Yield the response to a validated request; `response` gets model, backend, ignored, parsed output."""
        return run_stream(self, request, response)

    @override
    async def _call_verb(self, request: ChatRequest) -> LLMResponse:
        cls = type(self)
        generate, chat_completion = _own(cls, "generate"), _own(cls, "chat_completion")
        if chat_completion is not None and (generate is None or request.messages is not None):
            return await call_chat_completion(self, chat_completion, request)
        if generate is not None:
            return await call_generate(self, generate, request)
        raise NotImplementedError(f"{cls.__name__} must override generate, chat_completion, _chat or _stream.")


def _own(cls: type[LLMService], verb: str) -> Verb | None:
    """The override of a verb by the class of a backend; None if there is none."""
    method: Verb = getattr(cls, verb)
    return None if method is getattr(LLMService, verb) else method
