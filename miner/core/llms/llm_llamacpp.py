"""LlamaCppService: models as GGUF files, each served by a llama.cpp engine in a process of its own.

It asks the engine pool for a slot on a ready engine, then speaks as vLLM does. With LLAMACPP_API_BASE it speaks to a
server that runs already, and starts nothing.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from miner.core._typing import override
from miner.core.engine.launchers import find_launcher, launcher_available
from miner.core.engine.pool import EnginePool, Lease, PoolLimits
from miner.core.engine.process import EngineProcess
from miner.core.engine.spec import Address, EngineSpec
from miner.core.llms import llamacpp_wire
from miner.core.llms.gate import Gate
from miner.core.llms.join import join
from miner.core.llms.llamacpp_models import (
    DEFAULT_PARALLEL,
    LocalModel,
    find_model,
    fitting_slots,
    known_models,
    load_of,
    model_info,
    spec_of,
)
from miner.core.llms.llamacpp_wire import Modalities, Props, TemplateCaps
from miner.core.llms.openai_service import Endpoint, OpenAIService
from miner.core.llms.stream import Batches
from miner.core.models.gguf import GGUFHeader
from miner.core.models.memory import available_memory
from miner.core.models.verdict import judge
from miner.core.transport.faults import ErrorBody, Origin
from miner.core.transport.http import HttpClient
from miner.core.wire import ChatRequest, Health, LLMChunk, LLMResponse, ModelInfo, Progress, Timings
from miner.errors import (
    BackendError,
    BackendProtocolError,
    BackendTimeoutError,
    BackendUnavailableError,
    EngineStartError,
    MinerError,
    StreamInterruptedError,
)

__all__ = ["LlamaCppService"]

_DEATH_NOTICE_SECONDS = 1.0
_SHARE_OF_FREE_MEMORY = 0.8


class LlamaCppService(OpenAIService):
    """GGUF models on engines of ours, or a llama.cpp server at LLAMACPP_API_BASE."""

    name = "llamacpp"
    unreachable_hint = "Start the server, or set LLAMACPP_API_BASE; `curl {url}/models` must answer."
    timeout_setting = "LLAMACPP_TIMEOUT"
    key_setting = "LLAMACPP_API_KEY"
    reuse_connections = False
    field_names = llamacpp_wire.FIELD_NAMES
    neutral = llamacpp_wire.NEUTRAL

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._pool: EnginePool | None = None
        self._clients: dict[Address, HttpClient] = {}
        self._props: dict[Address | Endpoint, Props] = {}
        self._known: dict[EngineSpec, Props] = {}
        self._headers: dict[EngineSpec, GGUFHeader] = {}
        self._slots: dict[Path, int] = {}
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
    @override
    def capabilities(self) -> frozenset[str]:
        return llamacpp_wire.FEATURES | {"embeddings", "images"}

    @property
    @override
    def concurrency(self) -> int:
        return self._settings.llamacpp_parallel or DEFAULT_PARALLEL

    @override
    def adjust(self, body: dict[str, Any], request: ChatRequest) -> None:
        llamacpp_wire.adjust(body, request)

    @override
    def refine(self, status: int, body: ErrorBody, request: ChatRequest | None) -> MinerError | None:
        return llamacpp_wire.refine(status, body, self.name, {"backend": self.name, "status": status})

    # Engines

    def _engines(self) -> EnginePool:
        """The pool, made on first use and again after `aclose`."""
        if self._pool is None:
            settings = self._settings
            launcher = find_launcher(settings.llamacpp_server)
            start_timeout = settings.llamacpp_start_timeout
            self._pool = EnginePool(
                lambda spec: EngineProcess(spec, launcher, start_timeout=start_timeout),
                memory_of=self._need,
                limits=PoolLimits(
                    memory_budget=self._budget(),
                    max_queue=settings.max_queue,
                    queue_timeout=settings.queue_timeout,
                    max_loaded=settings.llamacpp_max_loaded,
                    idle_timeout=settings.llamacpp_idle_timeout,
                    fairness_wait=settings.llamacpp_fairness_wait,
                ),
            )
            # A service that is dropped, or alive at exit, takes its engines with it.
            weakref.finalize(self, self._pool.kill_all)
        return self._pool

    def _budget(self) -> int | None:
        """Bytes that all engines may take together."""
        if self._settings.llamacpp_memory_budget is not None:
            return self._settings.llamacpp_memory_budget
        free = available_memory(gpus=False).available
        return None if free is None else int(free * _SHARE_OF_FREE_MEMORY)

    def _local(self, name: str | None) -> tuple[LocalModel, EngineSpec]:
        """The model behind a name, and how it is run."""
        settings = self._settings
        model = find_model(name, settings)
        slots = self._slots.get(model.files.path)
        if slots is None:
            # Once for each model: the same settings must give the same engine, however much memory is free later.
            slots = self._slots[model.files.path] = fitting_slots(model, settings, available_memory(gpus=False))
        return model, spec_of(model, settings, parallel=slots)

    def _need(self, spec: EngineSpec) -> int:
        return load_of(spec).estimate(self._headers[spec]).ram

    async def _check_fit(self, model: LocalModel, spec: EngineSpec) -> None:
        """Refuse a load that cannot succeed, before the engine tries.

        Raises:
            EngineStartError: with the numbers, and the largest context that fits.
        """
        self._headers[spec] = model.header
        running = self._pool.status() if self._pool else []
        if any(engine.model == spec.alias and engine.state in ("ready", "starting") for engine in running):
            return
        memory = await asyncio.to_thread(available_memory, gpus=bool(spec.n_gpu_layers))
        if memory.available is not None:
            # Idle engines give way to this one.
            evictable = sum(engine.memory or 0 for engine in running if not engine.slots_busy)
            budget = self._settings.llamacpp_memory_budget
            free = memory.available + evictable
            memory = replace(memory, available=min(free, budget) if budget is not None else free)
        verdict = judge(model.header, load_of(spec), memory)
        if verdict.fits is False:
            raise EngineStartError(
                f"{spec.alias!r} does not fit into memory. {verdict.reason}",
                backend=self.name,
                retryable=False,
                hint=verdict.hint,
            )

    def _client_of(self, address: Address) -> HttpClient:
        """The client for one start of an engine; those of earlier starts are dropped."""
        client = self._clients.get(address)
        if client is None:
            origin = Origin(
                backend=self.name,
                base_url=f"{address.base_url}/v1",
                timeout_setting=self.timeout_setting,
                silence=self._settings.llamacpp_timeout,
            )
            client = HttpClient(origin, api_key=address.api_key, unix_socket=address.unix_socket, reuse=False)
            self._clients[address] = client
        return client

    @override
    @asynccontextmanager
    async def _connection(
        self, request: ChatRequest | None, model: str | None = None,
        on_progress: Callable[[Progress], None] | None = None, waited: Timings | None = None,
    ) -> AsyncIterator[HttpClient]:  # fmt: skip
        if self._external:
            async with (await self._own_gate()).slot() as seconds:
                if waited is not None:
                    waited.queue = seconds
                yield self._http()
            return
        name = request.model if request is not None else model
        local, spec = self._local(name)
        await self._check_fit(local, spec)
        keep_alive = request.keep_alive if request is not None else None
        lease_of = self._engines().lease(spec, keep_alive=_seconds(keep_alive), on_progress=on_progress)
        async with lease_of as lease:
            if waited is not None:
                waited.queue, waited.load = lease.queue_seconds, lease.load_seconds
            client = self._client_of(lease.address)
            if request is not None:
                props = self._known[spec] = await self._props_of(lease.address, client)
                self._refuse_by_template(request, props, spec)
            try:
                yield client
            except (StreamInterruptedError, BackendUnavailableError, BackendTimeoutError) as error:
                await self._explain(lease, error)
                raise

    async def _explain(self, lease: Lease, error: BackendError) -> None:
        """Raise the engine's death in place of what it looked like from outside, or end an engine that hangs."""
        if isinstance(error, BackendTimeoutError):
            # Each batch of prefill and each token says something: this engine hangs. Its process must go.
            lease.engine.kill()
            return
        if error.status is not None and error.status != 200:
            return
        try:
            # The connection breaks a moment before the exit status is known.
            async with asyncio.timeout(_DEATH_NOTICE_SECONDS):
                crash = await lease.engine.died()
        except TimeoutError:
            return
        raise crash from error

    async def _props_of(self, address: Address | Endpoint, client: HttpClient) -> Props:
        """What a server says of itself, asked once for each start."""
        known = self._props.get(address)
        if known is None:
            reply = await client.request("GET", "/props", total=30.0, root=True)
            if reply.status != 200:
                raise self._error(reply.status, reply.body, None, client.origin)
            try:
                known = msgspec.json.decode(reply.body, type=Props)
            except msgspec.DecodeError as error:
                raise BackendProtocolError(
                    f"llamacpp at {client.origin.shown_url} is no llama.cpp server: {error}.",
                    **client.origin.details(200),
                ) from error
            self._props[address] = known
        return known

    def _refuse_by_template(self, request: ChatRequest, props: Props, spec: EngineSpec) -> None:
        from miner.core.llms.features import refuse_unsupported

        refuse_unsupported(
            request, props.capabilities(embeds=spec.embeds), f"llamacpp's model {spec.alias!r} (its chat template)",
            ignore=request.ignore_unsupported, remote_images=self._settings.allow_remote_images,
        )  # fmt: skip

    async def _own_gate(self) -> Gate:
        """The queue in front of a server that somebody else runs, as wide as it has slots."""
        loop = asyncio.get_running_loop()
        if self._gate is None or self._gate[0] is not loop:
            props = await self._props_of(self.endpoint(), self._http())
            settings = self._settings
            gate = Gate(self.name, props.total_slots, max_queue=settings.max_queue, timeout=settings.queue_timeout)
            self._gate = loop, gate
        return self._gate[1]

    # Generation: always a stream, since its server notices a lost client reliably only there

    @override
    async def _chat(self, request: ChatRequest) -> LLMResponse:
        loop = asyncio.get_running_loop()
        began, first, arrived = loop.time(), None, []
        async with aclosing(self._stream(request)) as batches:
            async for batch in batches:
                if first is None and batch[0].progress is None:
                    first = loop.time() - began
                arrived.append(batch)
        response = join(arrived)
        response.model = request.model
        response.timings.time_to_first_token = first
        return response

    @override
    async def _stream(self, request: ChatRequest) -> Batches:
        waited = Timings()
        news: asyncio.Queue[Progress] = asyncio.Queue()
        connection = self._connection(request, on_progress=news.put_nowait if request.progress else None, waited=waited)
        async with AsyncExitStack() as stack:
            if request.progress:
                entering = asyncio.ensure_future(stack.enter_async_context(connection))
                async with aclosing(_news_until(entering, news)) as reports:
                    async for progress in reports:
                        yield [LLMChunk(progress=progress)]
                http = entering.result()
            else:
                http = await stack.enter_async_context(connection)
            path, body = self._body(request, stream=True)
            async with http.stream(path, msgspec.json.encode(body)) as answer:
                if answer.status != 200:
                    raise self._error(answer.status, await answer.read_all(), request, http.origin)
                async with aclosing(self._events(answer, request, http.origin)) as batches:
                    async for batch in batches:
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
        settings = self._settings
        names: list[str | None] = [None, *(files.alias for files in known_models(settings))]
        found: dict[str, ModelInfo] = {}
        for name in names:
            try:
                info = self._info(name)
            except MinerError:
                continue  # a default that is not there, a broken file: `miner models list` tells of it
            found.setdefault(info.id, info)
        return list(found.values())

    def _info(self, name: str | None) -> ModelInfo:
        model, spec = self._local(name)
        loaded = any(s.model == spec.alias and s.state == "ready" for s in (self._pool.status() if self._pool else ()))
        # A running engine knows exactly; before that, the template's text tells.
        props = self._known.get(spec) or Props(
            chat_template=spec.chat_template or model.header.chat_template or "",
            chat_template_caps=TemplateCaps(
                supports_tools="tool" in (spec.chat_template or model.header.chat_template or "")
            ),
            modalities=Modalities(vision=spec.mmproj is not None),
        )
        return model_info(model, spec, loaded=loaded, capabilities=props.capabilities(embeds=spec.embeds))

    @override
    async def _sole_model(self) -> str | None:
        if self._external:
            return await super()._sole_model()
        return find_model(None, self._settings).alias

    @override
    async def _get_model(self, model_name: str) -> ModelInfo:
        if self._external:
            info = await super()._get_model(model_name)
            props = await self._props_of(self.endpoint(), self._http())
            info.capabilities = props.capabilities(embeds=True)
            return info
        return self._info(model_name)

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
        engines = self._pool.status() if self._pool else []
        reason = launcher_available(self._settings.llamacpp_server)
        if reason is not None:
            return Health(state="unavailable", reason=reason, engines=engines)
        alias = find_model(None, self._settings).alias
        for engine in engines:
            if engine.model == alias and engine.state == "failed":
                return Health(state="failed", reason=engine.reason, models=[alias], engines=engines,
                              hint="Mend the cause, then reset the model.")  # fmt: skip
        return Health(state="ready", models=[alias], engines=engines)

    def reset_model(self, name: str) -> None:
        """Forget that a model's engine failed: the next request starts it again."""
        if self._pool is not None:
            self._pool.reset(find_model(name, self._settings).alias)

    @override
    async def aclose(self) -> None:
        pool, self._pool = self._pool, None
        clients, self._clients = self._clients, {}
        self._props.clear()
        self._gate = None
        for client in clients.values():
            await client.close()
        if pool is not None:
            await pool.aclose()
        await super().aclose()


async def _news_until(entering: asyncio.Future[Any], news: asyncio.Queue[Progress]) -> AsyncGenerator[Progress, None]:
    """What is told while a slot is waited for. Leaving early takes the request out of the queue."""
    try:
        while True:
            telling = asyncio.ensure_future(news.get())
            try:
                await asyncio.wait({entering, telling}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                telling.cancel()
            if telling.done() and not telling.cancelled():
                yield telling.result()
            elif entering.done():
                return
    finally:
        if not entering.done():
            entering.cancel()
            await asyncio.gather(entering, return_exceptions=True)


def _seconds(keep_alive: float | str | None) -> float | None:
    """Ollama's form of a duration is understood here too: 300, "5m", "1h30m", "-1"."""
    if keep_alive is None or isinstance(keep_alive, (int, float)):
        return keep_alive
    import re

    from miner.errors import InvalidRequestError

    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", keep_alive)
    if not parts or "".join(a + b for a, b in parts) != keep_alive.lstrip("-"):
        raise InvalidRequestError(
            f'keep_alive must be seconds or a duration such as "5m", not {keep_alive!r}.', param="keep_alive"
        )
    unit = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    total = sum(float(number) * unit[name] for number, name in parts)
    return -total if keep_alive.startswith("-") else total
