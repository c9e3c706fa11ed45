"""Backend: what every backend has and the hooks that it overrides. `LLMService` adds the public verbs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Self

from miner.core.engine.events import EngineEvents
from miner.core.http.connection_pool import ConnectionLimits
from miner.core.http.in_flight import InFlight
from miner.core.llms.contract.audio import AudioReply, no_audio
from miner.core.llms.contract.config_state import ConfigChange, ConfigState
from miner.core.llms.contract.join import drain
from miner.core.llms.contract.native import NativeBatch
from miner.core.llms.contract.rules import ModelRules
from miner.core.llms.contract.stream import Batches
from miner.core.llms.contract.vectors import shortened
from miner.core.models.names import check_name, without_tag
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
)
from miner.errors import ModelNotFoundError, ServiceClosedError, UnsupportedFeatureError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig
    from miner.core.llms.contract.server_load import ServerLoad


class Backend:
    """The base of LLMService that the rest of `contract` works with. Hooks get validated, complete requests; a backend
    overrides those that its engine needs, and `capabilities`.
    """

    name: str = ""
    """The backend's name in errors and in `LLM_BACKEND`: that of the entry point by which it was found, else the
    class's attribute, else derived from the class's name."""
    config: Any
    """The constructor's argument; read through `_settings`."""
    models: dict[str, Any]
    """Models that were resolved, by the name in the request."""
    retries: int
    """Number of requests that were retried."""
    any_model_name: bool | None
    """Whether unknown names mean the model at MODEL_PATH; None: as the settings say. A gateway sets it."""
    _completed: tuple[Any, MinerConfig] | None
    """A foreign config object with the settings that complete it: the environment is read once for it."""
    _in_flight: InFlight

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Set the attributes of a service."""
        # Here and not in __init__: the generate-only backend may have an __init__ that does not call this one.
        service = super().__new__(cls)
        service.config = args[0] if args else kwargs.get("config")
        service.models = {}
        service._completed = None
        service.retries = 0
        service._in_flight = InFlight(lambda: _closed(cls))
        service.any_model_name = None
        return service

    def __init__(self, config: Any = None) -> None:
        self.config = config

    @classmethod
    def unavailable_reason(cls, config: Any = None) -> str | None:
        """Return why this backend cannot be used on this machine at all, and what to install; None if it can. Called
        for each listing, so it must be cheap.
        """
        return None

    @classmethod
    def not_configured(cls, config: Any = None) -> str | None:
        """Return which setting is missing without which there is nothing to serve; None if there is none. Such a
        backend is no fallback for an unknown one, and nothing warns of it.
        """
        return None

    @classmethod
    def check_settings(cls, config: Any = None) -> None:
        """Check what this backend's settings name on this machine, before there is a request: `miner serve` and
        `miner generate` do. Starts nothing and connects to no server.

        Raises:
            ConfigError: a setting is wrong; names it, its value and the fix.
        """

    @property
    def capabilities(self) -> frozenset[str]:
        """What this backend supports: words of CAPABILITIES. A model may support less."""
        return frozenset({"chat", "timeout"})

    @property
    def concurrency(self) -> int:
        """Number of requests that are worth sending at once: 8, unless the backend knows better."""
        return 8

    @property
    def known_concurrency(self) -> int | None:
        """`concurrency` where the backend knows it, None where it is the default."""
        return None if type(self).concurrency is Backend.concurrency else self.concurrency

    @property
    def server_slots(self) -> int | None:
        """Requests that its server works on at once, as that has said; None: it has not, or it is not one server."""
        return None

    def concurrency_of(self, name: str | None) -> int | None:
        """Return `known_concurrency` of the backend that serves this name."""
        return self.known_concurrency

    @property
    def backend_names(self) -> list[str]:
        """The names of the backends behind this service, in order of preference."""
        return [self.name]

    @property
    def engine_fields(self) -> frozenset[str]:
        """Names of fields that this backend's engine knows in the body of a request, besides those that the options
        stand for: a gateway passes them on in `extra`.
        """
        return frozenset()

    def rules_of(self, name: str | None) -> ModelRules:
        """Return what holds for requests with this name; asks no engine.

        Args:
            name: None for the default model.
        """
        default = self._settings.default_model if name is None else None
        return ModelRules(name=default, engine_fields=self.engine_fields)

    def backend_of(self, name: str | None) -> Backend:
        """Return the backend that serves this name, for what depends on it: capabilities, routes of its own."""
        return self

    @property
    def server_address(self) -> tuple[str, int] | None:
        """Host and port of the server that it sends requests to; None: it knows of none."""
        return None

    async def server_loads(self) -> list[ServerLoad]:
        """What servers behind say of the load of their models; engines that are started here are in `health`."""
        return []

    @property
    def preloaded(self) -> list[str | None]:
        """The models to load at start, in order; None: the default model."""
        return [None]

    @property
    def config_state(self) -> ConfigState | None:
        """The file that says what is served; None: there is none."""
        return None

    async def reload(self, *, complete: bool = True) -> ConfigChange:
        """Read the file that says what is served again, serve what it says now and return what has changed. Requests
        in flight are finished; models that did not change keep their engines.

        Args:
            complete: False where the file may be being written just now: an error then changes nothing in
                `config_state`, and a file with fewer models is one.

        Raises:
            ConfigError: the file cannot be served; nothing has changed then.
            UnsupportedFeatureError: there is no such file.
        """
        raise UnsupportedFeatureError(f"{subject(self.name)} has no configuration file to read again.", param="config")

    @property
    def engine_events(self) -> EngineEvents | None:
        """Where changes of the engines that are started here are told; None: none are."""
        return None

    @property
    def runs_engines(self) -> bool:
        """Whether engines are started here for its models."""
        return self.engine_events is not None

    @property
    def queues_requests(self) -> bool:
        """Whether requests beyond the engine's slots wait in a bounded queue of the backend's own that is fair between
        clients (`contract.queue_client`). If not, the gateway queues them.
        """
        return False

    @property
    def _settings(self) -> MinerConfig:
        """The settings of `config`, completed with the environment's."""
        from miner.config.config import config_of

        if self.config is None:
            self.config = config_of(None)
        if self._completed is None or self._completed[0] is not self.config:
            self._completed = self.config, config_of(self.config)
        return self._completed[1]

    @property
    def _connection_limits(self) -> ConnectionLimits:
        settings = self._settings
        return ConnectionLimits(settings.connect_timeout, settings.max_connections, settings.queue_timeout)

    # Models

    async def resolve_model(self, name: str | None = None) -> ModelInfo | None:
        """Return the model that a request with this name would use; None if the backend names no models.

        Args:
            name: None for the default: DEFAULT_MODEL, else the one model that the engine serves. Ollama's `:latest` is
                dropped where no model has that name.

        Raises:
            ModelNotFoundError: no such model, or several and none was named; lists the available ones.
        """
        if name is not None:
            check_name(name)
        wanted = name or self._settings.default_model or await self._sole_model()
        if wanted is None:
            return None
        missing: ModelNotFoundError | None = None
        for name in dict.fromkeys((wanted, without_tag(wanted) or wanted)):  # Ollama's clients append `:latest`
            try:
                found = await self._get_model(name)
            except ModelNotFoundError as error:
                missing = missing or error
                continue
            if missing is None or found is not None:
                info = found if isinstance(found, ModelInfo) else ModelInfo(id=name)
                self.models[name] = info if found is None else found
                return info
        assert missing is not None
        raise missing

    async def _get_model(self, model_name: str) -> Any:
        """Make sure that the model can be used; built-in backends return its ModelInfo.

        Raises:
            ModelNotFoundError: no such model; lists the available ones.
        """
        return ModelInfo(id=model_name)

    async def _sole_model(self) -> str | None:
        """Return the model to use when neither the request nor DEFAULT_MODEL names one; None: the engine chooses."""
        return None

    async def _capabilities_of(self, info: ModelInfo, request: ChatRequest) -> frozenset[str] | None:
        """Return the model's capabilities that matter to this request; None: those of the backend."""
        return info.capabilities

    async def _context_of(self, info: ModelInfo) -> int | None:
        """Return the model's context length in tokens; None if unknown."""
        return info.context_length

    async def _check_schemas(self, request: ChatRequest, able: frozenset[str]) -> ChatRequest | None:
        """Refuse the JSON Schema keywords of `response_format` and strict tools that the engine does not enforce, or
        list them as ignored if the caller allows that. By default it enforces all.

        Args:
            able: the model's capabilities.

        Returns:
            The request to send; None for the same.

        Raises:
            UnsupportedFeatureError: names the keyword and its place.
        """
        return None

    async def _load(self, info: ModelInfo, keep_alive: float | str | None) -> ModelInfo:
        """Load a model; a backend whose models stay loaded returns its `info` as it is."""
        return info

    # Requests

    async def _chat(self, request: ChatRequest) -> LLMResponse:
        """Return the non-streaming response; by default the drained stream."""
        if type(self)._stream is not Backend._stream:
            return await drain(self._stream(request))
        return await self._call_verb(request)

    async def _stream(self, request: ChatRequest) -> Batches:
        """Yield the response in batches: the chunks that arrived in one read, together."""
        response = await self._chat(request)
        calls = [{**call, "index": index} for index, call in enumerate(response.tool_calls or ())]
        yield [
            LLMChunk(
                content=response.content or None,
                reasoning=response.reasoning,
                tool_calls=calls or None,
                finish_reason=response.finish_reason,
                stop_sequence=response.stop_sequence,
                usage=response.usage,
                logprobs=response.logprobs,
                timings=response.timings,
                context_exhausted=response.context_exhausted,
            )
        ]

    async def _call_verb(self, request: ChatRequest) -> LLMResponse:
        """Return the response of a class that overrides neither of these two hooks."""
        raise NotImplementedError(f"{type(self).__name__} must override _chat or _stream.")

    async def _embed(self, texts: list[str], model: str | None) -> EmbeddingResponse:
        """Return one vector for each text. With the capability "prompt_tokens" a text may be a list of token ids."""
        raise UnsupportedFeatureError(f"{subject(self.name)} does not support embeddings.", param="texts")

    async def _embed_short(self, texts: list[str], model: str | None, dimensions: int) -> EmbeddingResponse:
        """Return vectors of so many dimensions; longer ones where the model has fewer. By default they are cut."""
        return shortened(await self._embed(texts, model), dimensions)

    async def _rerank(self, query: str, documents: list[str], model: str | None, top_n: int | None) -> RerankResponse:
        """Return scores in any order, by index alone. A backend that overrides it has the capability "rerank"."""
        raise UnsupportedFeatureError(f"{subject(self.name)} does not rerank.", param="rerank")

    async def _count_tokens(self, request: ChatRequest) -> int:
        """Return the tokens of the prompt, its chat template included."""
        raise UnsupportedFeatureError(f"{subject(self.name)} cannot count tokens.", param="count_tokens")

    async def _tokenize(self, text: str, model: str | None, *, special: bool) -> list[Token]:
        """Return the tokens of a text, without a chat template."""
        raise UnsupportedFeatureError(f"{subject(self.name)} does not tell the tokens of a text.", param="text")

    @property
    def native_backend(self) -> Backend | None:
        """The backend of this service that has routes for `native` and `native_stream`; None: none has."""
        return None if type(self).native is Backend.native else self

    async def native(self, path: str, body: dict[str, Any] | None = None, model: str | None = None) -> bytes:
        """Return the engine's own response to a request in its own form that generates nothing.

        Args:
            path: of the engine's route, such as `/tokenize`; GET where there is no body.

        Raises:
            UnsupportedFeatureError: the engine has no such routes (param `native`).
        """
        raise _no_native(self.name)

    def native_stream(
        self, path: str, body: dict[str, Any], model: str | None = None
    ) -> AsyncGenerator[NativeBatch, None]:
        """Yield the engine's own response to a generation in its own form; unless the body has `stream: true`, it is
        the only event of the last batch. Errors are those of `native`.
        """
        raise _no_native(self.name)

    @property
    def audio_backend(self) -> Backend | None:
        """The backend of this service that has `audio`; None: none has."""
        return None if type(self).audio is Backend.audio else self

    def audio(
        self, path: str, body: bytes, content_type: str, model: str | None = None
    ) -> AbstractAsyncContextManager[AudioReply]:
        """Send a request for speech or its text, in OpenAI's form; the block reads the response.

        Args:
            path: one of AUDIO_PATHS.
            model: the model that the body names, for a service with several backends.

        Raises:
            UnsupportedFeatureError: there is no such route.
        """
        raise no_audio(self.name)

    async def _health(self) -> Health:
        """Return the state of the engine. May raise: `health` makes a Health of any exception."""
        default = self._settings.default_model
        if default:
            await self._get_model(default)
        return Health(state="ready", models=[default] if default else [])

    async def _close_resources(self) -> None:
        """Release what is open. Calls in flight have ended by then."""


def _no_native(name: str) -> UnsupportedFeatureError:
    return UnsupportedFeatureError(
        f"{name} does not have the routes of llama.cpp's server.", param="native",
        operator_hint="LLM_BACKEND=llamacpp has them.",
    )  # fmt: skip


def _closed(cls: type[Backend]) -> ServiceClosedError:
    return ServiceClosedError(
        f"The {cls.name} service was closed during the request.",
        backend=cls.name,
        hint="Send it again through a service that is open.",
    )
