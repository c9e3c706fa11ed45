"""LlamaCppService: GGUF models on llama.cpp engines of its own, or on a llama.cpp server at LLAMACPP_API_BASE."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

from miner.config.secrets import secret_text
from miner.core._typing import override
from miner.core.engine.events import EngineEvents
from miner.core.engine.launchers import launcher_available
from miner.core.engine.logtail import EngineLog
from miner.core.http.client import HttpClient
from miner.core.http.errors import ErrorBody, Upstream
from miner.core.llms.contract.native import NativeBatch
from miner.core.llms.contract.retry import Retries
from miner.core.llms.contract.stream import Batches
from miner.core.llms.llamacpp import dialect, native
from miner.core.llms.llamacpp.check_settings import check_settings
from miner.core.llms.llamacpp.context_tokens import continued, with_context
from miner.core.llms.llamacpp.engines import LocalEngines
from miner.core.llms.llamacpp.external import ExternalServer
from miner.core.llms.llamacpp.forced_tools import is_forced
from miner.core.llms.llamacpp.generation import Generation, OpenAIWire
from miner.core.llms.llamacpp.infill import as_completion, filled_in
from miner.core.llms.llamacpp.models import DEFAULT_PARALLEL
from miner.core.llms.llamacpp.progress import reports_until_done
from miner.core.llms.llamacpp.server import LlamaServer, ServerProvider
from miner.core.llms.LLMService import LLMService
from miner.core.llms.openai.models import read_tokens
from miner.core.llms.openai.service import Endpoint, OpenAIService
from miner.core.llms.pool.host import EngineHost
from miner.core.llms.schema.support import check_llama, drop_conflicting_format
from miner.core.model_card import ModelCard, ModelRecipe, RunningModel
from miner.core.wire import UNLIMITED, ChatRequest, Health, LLMChunk, ModelInfo, Progress, Timings, Token
from miner.errors import ContextLengthError, InvalidRequestError, MinerError, UnsupportedFeatureError

__all__ = ["LlamaCppService"]


class LlamaCppService(OpenAIService):
    """Each request takes a slot of a llama.cpp server, which is sent OpenAI's API with a few extra fields.

    A provider has the servers: engines started here, one process per model, or the server at LLAMACPP_API_BASE.
    """

    name = "llamacpp"
    unreachable_hint = "Start the server, or set LLAMACPP_API_BASE; `curl {url}/models` must respond."
    timeout_setting = "LLAMACPP_TIMEOUT"
    key_setting = "LLAMACPP_API_KEY"
    reuse_connections, reports_load = False, True
    features = dialect.FEATURES | {"embeddings", "images", "rerank", "suffix", "emulated"}
    field_names = dialect.FIELD_NAMES
    neutral = dialect.NEUTRAL
    takes_unlimited = True
    host: EngineHost | None = None
    """Where its engines run, if it shares that with other services; set before the first request."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        service = weakref.proxy(self)
        self._external = ExternalServer(self.features, lambda: service._http(), lambda: service._settings)
        self._engines: LocalEngines | None = None

    @property
    def _servers(self) -> ServerProvider:
        if self._settings.llamacpp_api_base:
            return self._external
        if self._engines is None:  # on first use, and again after `aclose`
            service = weakref.proxy(self)
            self._engines = LocalEngines(
                self.name, self.features, self._settings, lambda: service._takes_any_name, self.host
            )
        return self._engines

    @property
    def _takes_any_name(self) -> bool:
        return self._settings.any_model_name if self.any_model_name is None else self.any_model_name

    @classmethod
    @override
    def unavailable_reason(cls, config: Any = None) -> str | None:
        from miner.config.config import config_of

        settings = config_of(config)
        return None if settings.llamacpp_api_base else launcher_available(settings.llamacpp_server)

    @classmethod
    @override
    def check_settings(cls, config: Any = None) -> None:
        from miner.config.config import config_of

        check_settings(config_of(config))

    @override
    def endpoint(self) -> Endpoint:
        settings = self._settings
        base = (settings.llamacpp_api_base or "").rstrip("/")
        base = base if base.endswith("/v1") else base + "/v1"
        return Endpoint(base, secret_text(settings.llamacpp_api_key), settings.llamacpp_timeout)

    @property
    @override
    def capabilities(self) -> frozenset[str]:
        return self._servers.capabilities

    @property
    @override
    def engine_fields(self) -> frozenset[str]:
        return dialect.ENGINE_FIELDS if self.native_backend is not None else frozenset()

    @property
    @override
    def native_backend(self) -> LLMService | None:
        return self if self._servers.has_native else None

    @property
    @override
    def concurrency(self) -> int:
        wanted, most = self._settings.llamacpp_parallel or DEFAULT_PARALLEL, self._servers.max_slots
        return wanted if most is None else min(wanted, most)

    @property
    @override
    def server_slots(self) -> int | None:
        return self._servers.server_slots

    @property
    @override
    def engine_events(self) -> EngineEvents | None:
        return self._servers.events

    @property
    @override
    def queues_requests(self) -> bool:
        return True  # for each engine, and for the server at LLAMACPP_API_BASE

    # Requests

    @override
    def adjust(self, body: dict[str, Any], request: ChatRequest) -> None:
        dialect.adjust(body, request)
        if request.max_tokens == UNLIMITED:
            body["max_tokens"] = self._servers.unlimited_tokens
        if not self._servers.converts_schemas:
            dialect.format_as_grammar(body)

    @override
    def refine(self, status: int, body: ErrorBody, request: ChatRequest | None) -> MinerError | None:
        error = dialect.refine(status, body, self.name, {"backend": self.name, "status": status})
        tools_alone = request is not None and request.response_format is None and request.tools is not None
        if isinstance(error, InvalidRequestError) and error.param == "response_format" and tools_alone:
            # llama.cpp makes a grammar of the tools, too.
            error.param, error.message = "tools", error.message.replace("the output format", "the tools", 1)
        if isinstance(error, ContextLengthError) and request is not None and request.messages is None:
            error.param = "prompt"
        return error

    @override
    async def _check_schemas(self, request: ChatRequest, able: frozenset[str]) -> ChatRequest:
        # A grammar constrains the complete output: no reasoning could precede it.
        allowed = self._verbatim(request) or "reasoning" not in able or request.reasoning is False
        request.resolution.grammar_allowed = allowed
        if request.response_format is not None and request.response_format.kind == "grammar":
            request = drop_conflicting_format(request, self.name)
        await check_llama(request, self.name, bounds=allowed)
        return request

    @override
    @asynccontextmanager
    async def _connection(self, request: ChatRequest | None, model: str | None = None) -> AsyncIterator[HttpClient]:
        async with self._servers.slot(request, model, Timings()) as server:
            yield server.http

    @override
    async def _post(
        self, path: str, body: dict[str, Any], request: ChatRequest | None = None, *, model: str | None = None,
        root: bool = False,
    ) -> bytes:  # fmt: skip
        try:
            return await super()._post(path, body, request, model=model, root=root)
        except UnsupportedFeatureError:
            self._external.refused(path)
            raise

    @override
    def _watched_stops(self, request: ChatRequest) -> list[str]:
        return [] if is_forced(request) else request.stop  # the JSON of a forced tool call is no text

    @override
    async def _stream(self, request: ChatRequest) -> Batches:
        timings, reports = Timings(), asyncio.Queue[Progress]()
        on_progress = reports.put_nowait if request.progress else None
        slot = self._servers.slot(request, None, timings, on_progress)
        async with AsyncExitStack() as stack:
            if request.progress:
                waiting = asyncio.ensure_future(stack.enter_async_context(slot))
                async with aclosing(reports_until_done(waiting, reports)) as waited:
                    async for progress in waited:
                        yield [LLMChunk(progress=progress)]
                server = waiting.result()
            else:
                server = await stack.enter_async_context(slot)
            request, verbatim = await filled_in(server.supported(request), server), self._verbatim(request)
            keeps = request.context is not None and not request.raw
            if keeps:
                request = await continued(request, server, verbatim=verbatim)
            source = await self._generation(request, server, timings).stream()
            if keeps:
                source = with_context(source, request, server, verbatim=verbatim)
            async with aclosing(source) as batches:
                async for batch in batches:
                    last = batch[-1]
                    if last.timings is not None:
                        last.timings.queue, last.timings.load = timings.queue, timings.load
                    yield batch

    @override
    async def _count_tokens(self, request: ChatRequest) -> int:
        timings = Timings()
        async with self._servers.slot(request, None, timings) as server:
            return await self._generation(server.supported(request), server, timings).count_tokens()

    @override
    async def _tokenize(self, text: str, model: str | None, *, special: bool) -> list[Token]:
        body = {"content": text, "add_special": special, "with_pieces": True}
        raw = await self._servers.without_slot(
            model, lambda server: native.ask(server, "/tokenize", body, self._native_error)
        )
        return read_tokens(raw, self.name)

    # Its own routes

    @override
    async def native(self, path: str, body: dict[str, Any] | None = None, model: str | None = None) -> bytes:
        with self._in_flight.call():
            retries = Retries(self)
            info = await retries.run(lambda: self.resolve_model(model))
            name = None if info is None else info.id

            async def ask(server: LlamaServer) -> bytes:
                return await native.ask(server, path, body, self._native_error)

            async def send() -> bytes:
                if path.partition("?")[0] not in native.POOLED:
                    return await self._servers.without_slot(name, ask)
                async with self._servers.slot(None, name, Timings()) as server:
                    return await ask(server)

            response = await retries.run(send)
            return native.with_defaults(response, self._native_defaults()) if path == "/props" else response

    @override
    async def native_stream(
        self, path: str, body: dict[str, Any], model: str | None = None
    ) -> AsyncGenerator[NativeBatch, None]:
        body = {**self._native_defaults(), **body}
        info = await Retries(self).run(lambda: self.resolve_model(model))
        async with self._servers.slot(None, None if info is None else info.id, Timings()) as server:
            sent = await as_completion(path, body, server)
            async with aclosing(native.generate(server, *sent, self._native_error)) as batches:
                async for batch in batches:
                    yield batch

    def _native_defaults(self) -> dict[str, Any]:
        settings = self._settings
        defaults = {
            "n_predict": settings.llamacpp_n_predict, "temperature": settings.llamacpp_temp,
            "seed": settings.llamacpp_seed,
        }  # fmt: skip
        return {name: value for name, value in defaults.items() if value is not None}

    def _native_error(self, status: int, raw: bytes, upstream: Upstream) -> MinerError:
        code, body = native.parsed_error(raw)
        refined = dialect.refine(code or status, body, self.name, upstream.details(code or status))
        error = native.native_error(code or status, body, refined)
        return error or self._error(code or status, raw, None, upstream)

    def _generation(self, request: ChatRequest, server: LlamaServer, timings: Timings) -> Generation:
        wire = OpenAIWire(
            is_raw=self._verbatim,
            body=lambda request, stream: self._body(request, stream=stream),
            events=self._read_events,
            error=self._error,
        )
        return Generation(wire, server, request, timings)

    @override
    async def list_models(self) -> list[ModelInfo]:
        return await self._servers.list_models(super().list_models)

    @override
    async def _sole_model(self) -> str | None:
        return await self._servers.sole_model(super()._sole_model)

    @override
    async def _get_model(self, model_name: str | None) -> ModelInfo:
        return await self._servers.get_model(model_name, super()._get_model)

    @override
    async def resolve_model(self, name: str | None = None) -> ModelInfo | None:
        if not self._servers.manages_models:
            return await super().resolve_model(name)
        # MODEL_PATH has precedence over DEFAULT_MODEL here, and both over the only model of the directory.
        info = await self._get_model(name)
        self.models[info.id] = info
        return info

    @override
    async def show_model(self, model: str, *, verbose: bool = False) -> ModelCard:
        inherited = super().show_model
        return await self._servers.show_model(model, lambda: inherited(model, verbose=verbose), verbose=verbose)

    @override
    async def running_models(self) -> list[RunningModel]:
        return await self._servers.running_models(super().running_models)

    @override
    def create_model(self, name: str, recipe: ModelRecipe) -> AsyncGenerator[dict[str, Any], None]:
        maker = self._servers.maker
        return super().create_model(name, recipe) if maker is None else maker.create(name, recipe)

    @override
    async def copy_model(self, source: str, destination: str) -> None:
        maker = self._servers.maker
        await (super().copy_model if maker is None else maker.copy)(source, destination)

    @override
    async def delete_model(self, model: str) -> None:
        maker = self._servers.maker
        await (super().delete_model if maker is None else maker.delete)(model)

    @override
    async def has_blob(self, digest: str) -> bool:
        maker = self._servers.maker
        return await (super().has_blob if maker is None else maker.has_blob)(digest)

    @override
    async def add_blob(self, digest: str, content: AsyncIterator[bytes]) -> bool:
        maker = self._servers.maker
        return await (super().add_blob if maker is None else maker.add_blob)(digest, content)

    @override
    async def _context_of(self, info: ModelInfo) -> int | None:
        return await self._servers.context_length(info)

    @override
    async def _health(self) -> Health:
        return await self._servers.health(super()._health)

    @override
    def _clear_caches(self) -> None:
        super()._clear_caches()
        self._external.forget()

    @override
    async def _load(self, info: ModelInfo, keep_alive: float | str | None) -> ModelInfo:
        return await self._servers.load(info, keep_alive)

    @override
    async def unload_model(self, model: str) -> bool:
        # BackendTimeoutError: its requests were not done within MINER_QUEUE_TIMEOUT; the engine keeps running.
        return await self._servers.unload(model)

    @override
    def reset_model(self, model: str) -> None:
        """Forget that a model's engine failed: the next request starts it again."""
        self._servers.reset(model)

    @override
    async def stop_model(self, model: str) -> bool:
        return await self._servers.stop(model)

    @override
    async def engine_log(self, model: str) -> EngineLog:
        return await self._servers.engine_log(model)

    @override
    def pin_model(self, model: str) -> None:
        self._servers.pin(model)

    @override
    def unpin_model(self, model: str) -> None:
        self._servers.unpin(model)

    @override
    def pull_model(self, model: str, *, insecure: bool = False) -> AsyncGenerator[dict[str, Any], None]:
        return self._servers.pull(model, insecure=insecure)

    @override
    async def _close_resources(self) -> None:
        engines, self._engines = self._engines, None
        await self._external.aclose()
        if engines is not None:
            await engines.aclose()
        await super()._close_resources()
