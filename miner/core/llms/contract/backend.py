"""What a backend is made of: what it is given, and the hooks that it overrides. `LLMService` adds the public verbs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, cast

from miner.core.http.connection_pool import ConnectionLimits
from miner.core.http.in_flight import InFlight
from miner.core.llms.contract import generate_only as smallest
from miner.core.llms.contract.join import drain
from miner.core.llms.contract.stream import Batches
from miner.core.wire import ChatRequest, EmbeddingResponse, Health, LLMChunk, LLMResponse, ModelInfo, RerankResponse
from miner.errors import ServiceClosedError, UnsupportedFeatureError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig
    from miner.core.llms.LLMService import LLMService

__all__ = ["Hooks"]


class Hooks:
    """The side of a service that its backend sees. Hooks take requests that are checked and complete; a backend
    overrides those of what its engine can do, and the words of `capabilities`.
    """

    name: str = ""
    """The backend's name in errors and in `LLM_BACKEND`: that of the entry point by which it was found, else the
    class's attribute, else made from the class's name."""

    config: Any
    models: dict[str, Any]
    """Models that were found usable, by the name under which they were asked for."""
    retries: int
    """Requests that were sent again."""
    any_model_name: bool | None
    """Whether unknown names mean the model that MODEL_PATH names; None: as the settings say. A gateway sets it."""
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

    async def _check_schemas(self, request: ChatRequest, able: frozenset[str]) -> ChatRequest | None:
        """Refuse, or list as ignored where the caller allows that, what the engine does not enforce of the JSON Schemas
        of the format and of strict tools. By default it enforces all.

        Args:
            able: what the model can do.

        Returns:
            The request to send; None for the same.

        Raises:
            UnsupportedFeatureError: names the keyword and its place.
        """
        return None

    @classmethod
    def unavailable_reason(cls, config: Any = None) -> str | None:
        """Why this backend cannot be used on this machine at all, and what to install; None if it can. Cheap: asked
        for each listing.
        """
        return None

    @classmethod
    def check_settings(cls, config: Any = None) -> None:
        """Look at what the settings of this backend name on this machine, before there is a request: `miner serve` and
        `miner generate` do. Starts nothing and asks no server.

        Raises:
            ConfigError: one can be seen to be wrong; names the setting, its value and the way out.
        """

    @property
    def _settings(self) -> MinerConfig:
        """The settings, complete: those that the service was given, with the environment's for what they lack."""
        from miner.config.config import config_of

        if self.config is None:
            self.config = config_of(None)
        if self._completed is None or self._completed[0] is not self.config:
            self._completed = self.config, config_of(self.config)
        return self._completed[1]

    @property
    def _connection_limits(self) -> ConnectionLimits:
        """What bounds a client's connections: the same settings for all backends."""
        settings = self._settings
        return ConnectionLimits(settings.connect_timeout, settings.max_connections, settings.queue_timeout)

    async def _get_model(self, model_name: str) -> Any:
        """Make sure that the model can be used; built-in backends return its ModelInfo.

        Raises:
            ModelNotFoundError: no such model; the error lists what there is.
        """
        return ModelInfo(id=model_name)

    async def _sole_model(self) -> str | None:
        """The model that is meant when neither the request nor DEFAULT_MODEL names one; None: let the engine choose."""
        return None

    async def _chat(self, request: ChatRequest) -> LLMResponse:
        """A whole reply."""
        if type(self)._stream is not Hooks._stream:
            return await drain(self._stream(request))
        return await smallest.chat(cast("LLMService", self), request)

    async def _stream(self, request: ChatRequest) -> Batches:
        """The reply in batches: what arrived in one read, together."""
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

    async def _embed(self, texts: list[str], model: str | None) -> EmbeddingResponse:
        raise UnsupportedFeatureError(f"{self.name} does not support embeddings.", param="texts")

    async def _rerank(self, query: str, documents: list[str], model: str | None, top_n: int | None) -> RerankResponse:
        """Scores in any order, with no more than the index; "rerank" is among the capabilities then."""
        raise UnsupportedFeatureError(f"{self.name} does not rerank.", param="rerank")

    async def _load(self, info: ModelInfo, keep_alive: float | str | None) -> ModelInfo:
        return info

    async def _count_tokens(self, request: ChatRequest) -> int:
        raise UnsupportedFeatureError(f"{self.name} cannot count tokens.", param="count_tokens")

    async def _health(self) -> Health:
        default = self._settings.default_model
        if default:
            await self._get_model(default)
        return Health(state="ready", models=[default] if default else [])


def _closed(cls: type[Hooks]) -> ServiceClosedError:
    return ServiceClosedError(
        f"The {cls.name} service was closed while it worked on the request.",
        backend=cls.name,
        hint="Send it again through a service that is open, if it is still wanted.",
    )
