"""LlamaCppService: models as GGUF files, each served by a llama.cpp engine in a process of its own.

It asks for a slot on a ready engine, then speaks as vLLM does. With LLAMACPP_API_BASE it speaks to a server that runs
already, and starts nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import msgspec

from miner.core._typing import override
from miner.core.engine.launchers import Launcher, launcher_available
from miner.core.llms import llamacpp_wire
from miner.core.llms.durations import seconds_of
from miner.core.llms.features import refuse_unsupported
from miner.core.llms.gate import Gate
from miner.core.llms.llamacpp_engines import LocalEngines, Running, until_entered
from miner.core.llms.llamacpp_models import DEFAULT_PARALLEL, find_model, known_models, model_info
from miner.core.llms.llamacpp_pull import pull_events
from miner.core.llms.llamacpp_tools import as_calls, is_forced
from miner.core.llms.llamacpp_wire import Props
from miner.core.llms.openai_service import Endpoint, OpenAIService
from miner.core.llms.stream import Batches
from miner.core.transport.faults import ErrorBody
from miner.core.transport.http import HttpClient
from miner.core.wire import ChatRequest, Health, LLMChunk, ModelInfo, Progress, Timings
from miner.errors import BackendProtocolError, EngineStartError, MinerError, UnsupportedFeatureError

__all__ = ["LlamaCppService"]


class LlamaCppService(OpenAIService):
    """GGUF models on engines of ours, or a llama.cpp server at LLAMACPP_API_BASE."""

    name = "llamacpp"
    unreachable_hint = "Start the server, or set LLAMACPP_API_BASE; `curl {url}/models` must answer."
    timeout_setting = "LLAMACPP_TIMEOUT"
    key_setting = "LLAMACPP_API_KEY"
    reuse_connections = False
    features = llamacpp_wire.FEATURES | {"embeddings", "images", "rerank"}
    field_names = llamacpp_wire.FIELD_NAMES
    neutral = llamacpp_wire.NEUTRAL

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._local: LocalEngines | None = None
        self._server: tuple[Endpoint, Props] | None = None
        self._gate: tuple[asyncio.AbstractEventLoop, Gate] | None = None

    @classmethod
    @override
    def unavailable_reason(cls, config: Any = None) -> str | None:
        from miner.config.config import config_of

        settings = config_of(config)
        return None if settings.llamacpp_api_base else launcher_available(settings.llamacpp_server)

    @override
    def endpoint(self) -> Endpoint:
        settings = self._settings
        key: Any = settings.llamacpp_api_key
        reveal = getattr(key, "get_secret_value", None)
        base = (settings.llamacpp_api_base or "").rstrip("/")
        base = base if base.endswith("/v1") else base + "/v1"
        return Endpoint(base, reveal() if reveal else key, settings.llamacpp_timeout)

    @property
    def _external(self) -> bool:
        return bool(self._settings.llamacpp_api_base)

    @property
    def _engines(self) -> LocalEngines:
        """Made on first use, and again after `aclose`."""
        if self._local is None:
            self._local = LocalEngines(self._settings)
        return self._local

    @property
    @override
    def capabilities(self) -> frozenset[str]:
        # How long a model stays is not ours to say on somebody else's server.
        if self._external:
            return self.features - {"keep_alive"}
        launcher = self._launcher
        return self.features if launcher is None else self.features - launcher.lacks

    @property
    def _launcher(self) -> Launcher | None:
        """How engines are started here; None where none is installed, which the first request tells."""
        try:
            return self._engines.launcher
        except EngineStartError:
            return None

    @property
    @override
    def concurrency(self) -> int:
        wanted = self._settings.llamacpp_parallel or DEFAULT_PARALLEL
        launcher = None if self._external else self._launcher
        return wanted if launcher is None or launcher.slots is None else min(wanted, launcher.slots)

    @override
    def adjust(self, body: dict[str, Any], request: ChatRequest) -> None:
        llamacpp_wire.adjust(body, request)

    @override
    def refine(self, status: int, body: ErrorBody, request: ChatRequest | None) -> MinerError | None:
        return llamacpp_wire.refine(status, body, self.name, {"backend": self.name, "status": status})

    # A slot

    @override
    @asynccontextmanager
    async def _connection(
        self, request: ChatRequest | None, model: str | None = None,
        on_progress: Callable[[Progress], None] | None = None, waited: Timings | None = None,
    ) -> AsyncIterator[HttpClient]:  # fmt: skip
        waited = Timings() if waited is None else waited
        if self._external:
            async with (await self._own_gate()).slot() as waited.queue:
                yield self._http()
            return
        name = request.model if request is not None else model
        wanted = request.keep_alive if request is not None else None
        keep_alive = None if wanted is None else seconds_of(wanted)
        async with self._engines.slot(name, keep_alive=keep_alive, on_progress=on_progress) as (running, lease):
            waited.queue, waited.load = lease.queue_seconds, lease.load_seconds
            props = await self._props_of(running)
            if request is not None:
                # The running engine knows exactly what its template can do.
                able = props.capabilities(embeds=running.spec.embeds, ranks=running.spec.ranks)
                refuse_unsupported(
                    request,
                    able - self._engines.launcher.lacks,
                    f"{self.name}'s model {running.spec.alias!r} (its chat template)",
                    ignore=request.ignore_unsupported,
                )
            yield running.http

    async def _props_of(self, running: Running) -> Props:
        """What an engine of ours says of itself, asked once for each start."""
        if running.props is None:
            running.props = await self._ask_props(running.http)
        return running.props

    async def _ask_props(self, http: HttpClient) -> Props:
        """What a server says of itself."""
        reply = await http.request("GET", "/props", total=30.0, root=True)
        if reply.status != 200:
            raise self._error(reply.status, reply.body, None, http.origin)
        try:
            return msgspec.json.decode(reply.body, type=Props)
        except msgspec.DecodeError as error:
            raise BackendProtocolError(
                f"{self.name} at {http.origin.shown_url} is no llama.cpp server: {error}.", **http.origin.details(200)
            ) from error

    async def _server_props(self) -> Props:
        """The same of a server that somebody else runs, asked once."""
        endpoint = self.endpoint()
        if self._server is None or self._server[0] != endpoint:
            self._server = endpoint, await self._ask_props(self._http())
        return self._server[1]

    async def _own_gate(self) -> Gate:
        """The queue in front of that server, as wide as it has slots."""
        loop = asyncio.get_running_loop()
        if self._gate is None or self._gate[0] is not loop:
            slots = (await self._server_props()).total_slots
            settings = self._settings
            gate = Gate(self.name, slots, max_queue=settings.max_queue, timeout=settings.queue_timeout)
            self._gate = loop, gate
        return self._gate[1]

    # Generation

    @override
    def _watched(self, request: ChatRequest) -> list[str]:
        return [] if is_forced(request) else request.stop  # a forced call is JSON on its way to be a call, no text

    @override
    async def _stream(self, request: ChatRequest) -> Batches:
        waited = Timings()
        news: asyncio.Queue[Progress] = asyncio.Queue()
        connection = self._connection(request, on_progress=news.put_nowait if request.progress else None, waited=waited)
        async with AsyncExitStack() as stack:
            if request.progress:
                entering = asyncio.ensure_future(stack.enter_async_context(connection))
                async with aclosing(until_entered(entering, news)) as reports:
                    async for progress in reports:
                        yield [LLMChunk(progress=progress)]
                http = entering.result()
            else:
                http = await stack.enter_async_context(connection)
            path, body = self._body(request, stream=True)
            async with http.stream(path, msgspec.json.encode(body)) as answer:
                if answer.status != 200:
                    raise self._error(answer.status, await answer.read_all(), request, http.origin)
                async with aclosing(self._events(answer, request, http.origin)) as events:
                    async for batch in as_calls(events) if is_forced(request) else events:
                        last = batch[-1]
                        if last.timings is not None:
                            last.timings.queue, last.timings.load = waited.queue, waited.load
                        yield batch

    @override
    async def _count_tokens(self, request: ChatRequest) -> int:
        async with self._connection(request) as http:
            if self._verbatim(request):
                path, body = "/tokenize", {"content": request.prompt, "add_special": True}
            else:
                path, body = "/v1/chat/completions/input_tokens", self._body(request, stream=False)[1]
            reply = await http.request("POST", path, msgspec.json.encode(body), root=True)
            if reply.status != 200:
                raise self._error(reply.status, reply.body, request, http.origin)
        counted = msgspec.json.decode(reply.body)
        return len(counted["tokens"]) if "tokens" in counted else int(counted["input_tokens"])

    # Models and health

    @override
    async def list_models(self) -> list[ModelInfo]:
        if self._external:
            return await super().list_models()
        names: list[str | None] = [None, *(files.alias for files in known_models(self._settings))]
        found: dict[str, ModelInfo] = {}
        for name in names:
            try:
                info = self._info(name)
            except MinerError:
                continue  # a default that is not there, a broken file: `miner models list` tells of it
            found.setdefault(info.id, info)
        return list(found.values())

    def _info(self, name: str | None) -> ModelInfo:
        engines = self._engines
        model, spec = engines.local(name)
        # A running engine knows exactly; before that, the template's text tells.
        props = engines.known(spec) or Props.guess(
            template=spec.chat_template or model.header.chat_template, sees=spec.mmproj is not None
        )
        able = props.capabilities(embeds=spec.embeds, ranks=spec.ranks) - engines.launcher.lacks
        return model_info(model, spec, loaded=engines.loaded(spec), capabilities=able)

    @override
    async def _sole_model(self) -> str | None:
        return await super()._sole_model() if self._external else find_model(None, self._settings).alias

    @override
    async def _get_model(self, model_name: str) -> ModelInfo:
        if not self._external:
            return self._info(model_name)
        info = await super()._get_model(model_name)
        info.capabilities = (await self._server_props()).capabilities(embeds=True, ranks=True) & self.capabilities
        return info

    @override
    async def _usable_model(self, name: str | None) -> ModelInfo | None:
        # MODEL_PATH goes before DEFAULT_MODEL here.
        if name is None and not self._external and self._settings.model_path:
            name = await self._sole_model()
        return await super()._usable_model(name)

    @override
    async def _health(self) -> Health:
        if self._external:
            return await super()._health()
        engines = self._local.status() if self._local else []
        reason = launcher_available(self._settings.llamacpp_server)
        if reason is not None:
            return Health(state="unavailable", reason=reason, engines=engines)
        alias = find_model(None, self._settings).alias
        failed = next((engine for engine in engines if engine.model == alias and engine.state == "failed"), None)
        if failed is not None:
            hint = "Mend the cause, then reset the model."
            return Health(state="failed", reason=failed.reason, models=[alias], engines=engines, hint=hint)
        return Health(state="ready", models=[alias], engines=engines)

    # Loading

    @override
    async def _load(self, info: ModelInfo, keep_alive: float | str | None) -> ModelInfo:
        if self._external:
            return info
        if keep_alive is not None or not info.loaded:
            seconds = None if keep_alive is None else seconds_of(keep_alive)
            async with self._engines.slot(info.id, keep_alive=seconds) as (running, _):
                await self._props_of(running)
        return self._info(info.id)

    @override
    async def unload_model(self, model: str) -> bool:
        """Stop a model's engine once its requests are done; whether there was one.

        Raises:
            BackendTimeoutError: they were not within MINER_QUEUE_TIMEOUT; the engine goes on then.
        """
        alias = self._alias(model)
        return self._local is not None and await self._local.unload(alias)

    @override
    def reset_model(self, model: str) -> None:
        """Forget that a model's engine failed: the next request starts it again."""
        alias = self._alias(model)
        if self._local is not None:
            self._local.reset(alias)

    def pin_model(self, model: str) -> None:
        """Never evict a model's engine for another one, nor unload it for idleness, until the service is closed. It
        need not be loaded yet.
        """
        alias = self._alias(model)
        self._engines.pin(alias)

    def unpin_model(self, model: str) -> None:
        """Take a pin back."""
        alias = self._alias(model)
        if self._local is not None:
            self._local.unpin(alias)

    @override
    def pull_model(self, model: str, *, insecure: bool = False) -> AsyncGenerator[dict[str, Any], None]:
        if self._external:
            raise self._not_ours("pull")
        if insecure:
            raise UnsupportedFeatureError(
                "llamacpp does not support insecure.", param="insecure", hint="HF_ENDPOINT names the hub, also by http."
            )
        return pull_events(model, self._settings)

    def _alias(self, model: str) -> str:
        """The name under which a model's engine runs, also where its file is gone by now."""
        if self._external:
            raise self._not_ours("model")
        if self._local is not None and any(engine.model == model for engine in self._local.status()):
            return model
        return find_model(model, self._settings).alias

    def _not_ours(self, param: str) -> UnsupportedFeatureError:
        return UnsupportedFeatureError(
            "The llama.cpp server at LLAMACPP_API_BASE is somebody else's: what it loads is not ours to say.",
            param=param,
            hint="Unset LLAMACPP_API_BASE, and engines are started here.",
        )

    @override
    async def aclose(self) -> None:
        local, self._local = self._local, None
        self._server = self._gate = None
        if local is not None:
            await local.aclose()
        await super().aclose()
