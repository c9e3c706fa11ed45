"""OpenAIServer: the errors and the models of an OpenAI-compatible server."""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, ClassVar

import msgspec

from miner.core._typing import override
from miner.core.http.client import HttpClient, HttpResponse
from miner.core.http.errors import ErrorBody, Upstream, parse_error_body, retry_after_seconds, status_error
from miner.core.llms.http_backend import HTTPBackend
from miner.core.llms.openai.models import once_each, read_models
from miner.core.wire import ChatRequest, ModelInfo
from miner.errors import BackendError, MinerError, ModelNotFoundError

_MODELS_FRESH_SECONDS = 30.0


class OpenAIServer(HTTPBackend):
    """The part of a service that concerns its server; OpenAIService adds generation, embeddings and reranking."""

    name = "openai"
    takes_any_name: bool = False
    """Whether any name means the model of a server that lists only one."""
    beyond: ClassVar[frozenset[str]] = frozenset()
    """Capabilities that the service has for models whose server lists them."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._listed: list[ModelInfo] = []
        self._listed_at = float("-inf")
        self._one_model = False

    def refine(self, status: int, body: ErrorBody, request: ChatRequest | None) -> MinerError | None:
        """Return the error that the server's message means; None: its HTTP status decides.

        Args:
            request: the one that failed, if it was one to generate.
        """
        return None

    # Transport

    @override
    def _clear_caches(self) -> None:
        self._listed_at = float("-inf")

    def _connection(
        self, request: ChatRequest | None, model: str | None = None
    ) -> AbstractAsyncContextManager[HttpClient]:
        """The client for one request, or for one that only names a model. llama.cpp waits for a slot here."""
        return nullcontext(self._http())

    def _error(self, status: int, raw: bytes | dict[str, Any], request: ChatRequest | None, upstream: Upstream,
               retry_after: str | None = None) -> MinerError:  # fmt: skip
        """The error for a failure status: `refine`'s, else that of the status."""
        body = parse_error_body(raw)
        refined = self.refine(status, body, request)
        if refined is not None:
            if isinstance(refined, BackendError):
                refined.base_url = refined.base_url or upstream.shown_url
                if refined.retry_after is None:
                    refined.retry_after = retry_after_seconds(retry_after)
            return refined
        if status == 404 and body.json and request is not None and request.model is not None and body.param == "model":
            self._listed_at = float("-inf")
            return ModelNotFoundError(f"{upstream.label}: {body.message}", model=request.model)
        return status_error(status, body, upstream, retry_after=retry_after_seconds(retry_after))

    def _check_status(self, response: HttpResponse, request: ChatRequest | None, upstream: Upstream) -> None:
        if response.status != 200:
            retry_after = response.headers.get("Retry-After")
            raise self._error(response.status, response.body, request, upstream, retry_after)

    async def _post(
        self, path: str, body: dict[str, Any], request: ChatRequest | None = None, *, model: str | None = None,
        root: bool = False,
    ) -> bytes:  # fmt: skip
        async with self._connection(request, model) as http:
            response = await http.request("POST", path, msgspec.json.encode(body), root=root)
            self._check_status(response, request, http.upstream)
            return response.body

    # Models and health

    @override
    async def _served_models(self, *, total: float | None = None) -> list[ModelInfo]:
        http = self._http()
        response = await http.request("GET", "/models", total=total)
        if response.status in (404, 405):  # every such server has this route: another program is at the address
            raise status_error(404, parse_error_body(response.body), http.upstream)
        self._check_status(response, None, http.upstream)
        previous = self._listed
        try:
            self._listed, self._one_model = read_models(response.body)
        except msgspec.DecodeError as error:
            raise http.upstream.protocol_error(f"did not send a list of models: {error}.", status=200) from error
        for model in self._listed:
            if model.capabilities is not None:
                model.capabilities &= self.capabilities | self.beyond
        if previous and _identity(previous) != _identity(self._listed):
            self._clear_caches()
        elif previous:
            for model, known in zip(self._listed, previous, strict=True):
                model.created = known.created  # vLLM and llama-server say the time of the request
        self._listed_at = time.monotonic()
        return self._listed

    @override
    async def list_models(self) -> list[ModelInfo]:
        return list(await self._served_models())

    @override
    async def _sole_model(self) -> str | None:
        """The only model that the server serves, or the one that it says it takes for requests that name none."""
        models = self._listed if self._fresh() else await self._served_models()
        if self._one_model:
            return models[0].id
        if (default := next((model.id for model in models if model.default), None)) is not None:
            return default
        raise self._no_sole_model([model.id for model in once_each(models)])

    def _fresh(self) -> bool:
        return bool(self._listed) and time.monotonic() - self._listed_at < _MODELS_FRESH_SECONDS

    @override
    async def _get_model(self, model_name: str) -> ModelInfo:
        for refresh in (False, True):
            models = await self._served_models() if refresh or not self._fresh() else self._listed
            exact = next((model for model in models if self._has_name(model, model_name)), None)
            found = exact or next((model for model in models if _has_name_in_any_case(model, model_name)), None)
            if found is None and self.takes_any_name and self._one_model:
                return models[0]
            if found is not None:
                return found
        names = [model.id for model in once_each(self._listed)]
        raise ModelNotFoundError(
            f"{self._http().upstream.label} has no model {model_name!r}.",
            model=model_name,
            available=names,
            hint=self._missing_model_hint(model_name, names),
        )


def _has_name_in_any_case(model: ModelInfo, name: str) -> bool:
    """Whether it has this name but for its case: Ollama's clients may spell it otherwise."""
    return name.lower() in (model.id.lower(), *(alias.lower() for alias in model.aliases))


def _identity(models: list[ModelInfo]) -> list[object]:
    """The part of a list that is constant while the server runs; `created` is the time of the request."""
    return [(model.id, model.aliases, model.context_length, model.size, model.owned_by) for model in models]
