"""LlamaCppService: models as GGUF files, each served by a llama.cpp engine in a process of its own.

It asks for a slot on a ready engine, then speaks as vLLM does. With LLAMACPP_API_BASE it speaks to a server that runs
already, and starts nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import msgspec
from msgspec.structs import replace

from miner.config.secrets import secret_text
from miner.core._typing import override
from miner.core.engine.launchers import Launcher, launcher_available
from miner.core.http.client import HttpClient
from miner.core.http.errors import ErrorBody, parse_error_body
from miner.core.llms.contract.capabilities import refuse_unsupported
from miner.core.llms.contract.durations import seconds_of
from miner.core.llms.contract.malformed import LostReplyError, MalformedReplyError, Sent
from miner.core.llms.contract.queueing import current_client
from miner.core.llms.contract.stream import Batches
from miner.core.llms.contract.tools import tool_names
from miner.core.llms.llamacpp import dialect as llamacpp_wire
from miner.core.llms.llamacpp.chat_template import Fitted, Template, template_refusal
from miner.core.llms.llamacpp.dialect import Props
from miner.core.llms.llamacpp.emulated_tools import calls_in_text
from miner.core.llms.llamacpp.engines import LocalEngines, Running, until_entered
from miner.core.llms.llamacpp.external import Facts, ForeignServer, template_of
from miner.core.llms.llamacpp.forced_tools import as_calls, is_either, is_forced
from miner.core.llms.llamacpp.malformed import recovered
from miner.core.llms.llamacpp.models import DEFAULT_PARALLEL, find_model
from miner.core.llms.llamacpp.prefill import Prefill, PrefillGate
from miner.core.llms.llamacpp.pull import pull_from_hub
from miner.core.llms.llamacpp.settings import check_settings
from miner.core.llms.openai.service import Endpoint, OpenAIService
from miner.core.llms.schema.support import check_llama, refuse_both
from miner.core.wire import ChatRequest, Health, LLMChunk, ModelInfo, Progress, Timings
from miner.errors import (
    BackendProtocolError,
    ContextLengthError,
    EngineStartError,
    InvalidRequestError,
    MinerError,
    ModelNotFoundError,
    UnsupportedFeatureError,
)

__all__ = ["LlamaCppService"]

_QUESTION_SECONDS = 30.0


class _Applied(msgspec.Struct):
    """What `/apply-template` answers."""

    prompt: str


class _Prepared(NamedTuple):
    """A request as it is sent."""

    path: str
    body: dict[str, Any]
    fitted: Fitted | None
    """None past the chat template."""


class LlamaCppService(OpenAIService):
    """GGUF models on engines of ours, or a llama.cpp server at LLAMACPP_API_BASE."""

    name = "llamacpp"
    unreachable_hint = "Start the server, or set LLAMACPP_API_BASE; `curl {url}/models` must answer."
    timeout_setting = "LLAMACPP_TIMEOUT"
    key_setting = "LLAMACPP_API_KEY"
    reuse_connections = False
    features = llamacpp_wire.FEATURES | {"embeddings", "images", "rerank", "emulated"}
    field_names = llamacpp_wire.FIELD_NAMES
    neutral = llamacpp_wire.NEUTRAL

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._local: LocalEngines | None = None
        self._server = ForeignServer()
        self._prefills: WeakKeyDictionary[HttpClient, PrefillGate] = WeakKeyDictionary()
        self._templates: WeakKeyDictionary[HttpClient, Template] = WeakKeyDictionary()
        self._able: WeakKeyDictionary[HttpClient, frozenset[str]] = WeakKeyDictionary()

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
            known = self._server.capabilities
            return (self.features if known is None else known) - {"keep_alive"}
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

    @property
    @override
    def queues_requests(self) -> bool:
        return True  # for each engine, and for the server at LLAMACPP_API_BASE

    @override
    def adjust(self, body: dict[str, Any], request: ChatRequest) -> None:
        llamacpp_wire.adjust(body, request)
        launcher = None if self._external else self._launcher
        if launcher is not None and not launcher.converts_schemas:
            llamacpp_wire.format_as_grammar(body)

    @override
    def refine(self, status: int, body: ErrorBody, request: ChatRequest | None) -> MinerError | None:
        error = llamacpp_wire.refine(status, body, self.name, {"backend": self.name, "status": status})
        tools_alone = request is not None and request.response_format is None and request.tools is not None
        if isinstance(error, InvalidRequestError) and error.param == "response_format" and tools_alone:
            # Its converter makes a grammar of the tools, too.
            error.param, error.message = "tools", error.message.replace("the output format", "the tools", 1)
        if isinstance(error, ContextLengthError) and request is not None and request.messages is None:
            error.param = "prompt"
        return error

    @override
    async def _check_schemas(self, request: ChatRequest, able: frozenset[str]) -> ChatRequest:
        # A grammar is for all of the reply: there could be no reasoning before it.
        allowed = self._verbatim(request) or "reasoning" not in able or request.reasoning is False
        request.resolution.grammar_allowed = allowed
        if request.response_format is not None and request.response_format.kind == "grammar":
            request = refuse_both(request, self.name)
        await check_llama(request, self.name, bounds=allowed)
        return request

    # A slot

    @override
    @asynccontextmanager
    async def _connection(
        self, request: ChatRequest | None, model: str | None = None,
        on_progress: Callable[[Progress], None] | None = None, waited: Timings | None = None,
    ) -> AsyncIterator[HttpClient]:  # fmt: skip
        waited = Timings() if waited is None else waited
        if self._external:
            http, settings = self._http(), self._settings
            limiter = await self._server.limiter(
                http, self._ask_props, backend=self.name, max_queue=settings.max_queue, timeout=settings.queue_timeout
            )
            async with limiter.slot(current_client()) as waited.queue:
                yield http
            return
        name = request.model if request is not None else model
        wanted = request.keep_alive if request is not None else None
        keep_alive = None if wanted is None else seconds_of(wanted)
        async with self._engines.slot(name, keep_alive=keep_alive, on_progress=on_progress) as (running, lease):
            waited.queue, waited.load = lease.queue_seconds, lease.load_seconds
            props = await self._props_of(running)
            able = props.capabilities(embeds=running.spec.embeds, ranks=running.spec.ranks)
            self._able[running.http] = able - self._engines.launcher.lacks
            if running.http not in self._prefills:
                self._prefills[running.http] = PrefillGate(running.spec.batch_size)
            yield running.http

    def _supported(self, request: ChatRequest, http: HttpClient) -> ChatRequest:
        """The request as a running engine of ours can honour it: only then it is known what its template can do."""
        able = self._able.get(http)
        if able is None:
            return request
        return refuse_unsupported(request, able, f"{self.name}'s model {request.model!r} (its chat template)")

    async def _props_of(self, running: Running) -> Props:
        """What an engine of ours says of itself, asked once for each start."""
        if running.props is None:
            running.props = await self._ask_props(running.http)
            self._templates[running.http] = template_of(running.props)
        return running.props

    async def _ask_props(self, http: HttpClient) -> Props:
        """What a server says of itself."""
        reply = await http.request("GET", "/props", total=self._short, root=True)
        if reply.status != 200:
            raise self._error(reply.status, reply.body, None, http.upstream)
        try:
            return msgspec.json.decode(reply.body, type=Props)
        except msgspec.DecodeError as error:
            raise BackendProtocolError(
                f"{self.name} at {http.upstream.shown_url} is no llama.cpp server: {error}.",
                **http.upstream.details(200),
            ) from error

    @property
    def _short(self) -> float:
        """Seconds for a question that takes no token."""
        return min(_QUESTION_SECONDS, self._settings.llamacpp_timeout)

    @override
    def _forget(self) -> None:
        super()._forget()
        self._server.forget()

    async def _facts(self) -> Facts:
        """What the server at LLAMACPP_API_BASE says of itself."""
        return await self._server.facts(self._http(), self._ask_props)

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
            request = self._supported(request, http)
            prepared = await self._prepared(request, http, stream=True)
            events = self._parsed(prepared, request, http, waited)
            if is_forced(request) or is_either(request):
                events = as_calls(events, request)
            elif prepared.fitted is not None and prepared.fitted.reads_calls:
                events = calls_in_text(events, tool_names(request.tools))
            async with aclosing(events) as batches:
                async for batch in batches:
                    last = batch[-1]
                    if last.timings is not None:
                        last.timings.queue, last.timings.load = waited.queue, waited.load
                    yield batch

    def _prefill(self, http: HttpClient, body: bytes) -> Prefill | nullcontext[None]:
        """The wait for the engine to read this prompt; none in front of a server that somebody else runs."""
        gate = self._prefills.get(http)
        return nullcontext() if gate is None else gate.prefill(body)

    async def _parsed(self, prepared: _Prepared, request: ChatRequest, http: HttpClient, waited: Timings) -> Batches:
        """The reply as llama.cpp parses it; as the model wrote it where it cannot."""
        sent = Sent()
        try:
            while True:
                body = msgspec.json.encode(prepared.body)
                async with self._prefill(http, body) as prefill, http.stream(prepared.path, body) as answer:
                    if answer.status == 200:
                        async with aclosing(self._events(answer, request, http.upstream)) as events:
                            async for batch in events:
                                if prefill is not None and prefill.see(batch):
                                    waited.queue = (waited.queue or 0.0) + prefill.waited
                                    prefill = None
                                if sent.note(batch):
                                    yield batch
                        if sent.held:
                            yield sent.held
                        return
                    raw = await answer.read_all()
                prepared = await self._refitted(prepared, request, http, answer.status, raw)
        except (MalformedReplyError, LostReplyError) as error:
            if prepared.fitted is None:
                raise
            failure = error
        rest = recovered(
            request, prepared.body, sent, failure,
            apply=partial(self._apply_template, http),
            count=partial(self._tokens_of, http),
            complete=partial(self._written_after, http),
        )  # fmt: skip
        async with aclosing(rest) as batches:
            async for batch in batches:
                yield batch

    async def _written_after(self, http: HttpClient, request: ChatRequest) -> Batches:
        """The reply to a verbatim prompt."""
        path, fields = self._body(request, stream=True)
        body = msgspec.json.encode(fields)
        async with self._prefill(http, body) as prefill, http.stream(path, body) as answer:
            if answer.status != 200:
                raise self._error(answer.status, await answer.read_all(), request, http.upstream)
            async with aclosing(self._events(answer, request, http.upstream)) as events:
                async for batch in events:
                    if prefill is not None and prefill.see(batch):
                        prefill = None
                    yield batch

    async def _tokens_of(self, http: HttpClient, text: str) -> int:
        body = {"content": text, "add_special": False}
        reply = await http.request("POST", "/tokenize", msgspec.json.encode(body), total=self._short, root=True)
        return len(msgspec.json.decode(reply.body).get("tokens", ())) if reply.status == 200 else 0

    # What the chat template takes

    async def _prepared(self, request: ChatRequest, http: HttpClient, *, stream: bool) -> _Prepared:
        """The body for a request, its conversation in the form that the chat template takes."""
        if self._verbatim(request):
            return _Prepared(*self._body(request, stream=stream), None)
        wanted = request.response_format
        held = is_forced(request) or (wanted is not None and wanted.kind in ("json_object", "json_schema"))
        template = await self._template(http)
        fitted = await template.fit(request, partial(self._apply_template, http), schema=held)
        return self._prepared_with(fitted, request, stream=stream)

    def _prepared_with(self, fitted: Fitted, request: ChatRequest, *, stream: bool) -> _Prepared:
        sent = request
        if fitted.messages is not request.messages and request.prompt is None:
            sent = replace(request, messages=fitted.messages)
        path, body = self._body(sent, stream=stream)
        if fitted.tells_tools:
            for name in ("tools", "tool_choice", "parallel_tool_calls"):
                body.pop(name, None)
        return _Prepared(path, body, fitted)

    async def _refitted(
        self, prepared: _Prepared, request: ChatRequest, http: HttpClient, status: int, raw: bytes
    ) -> _Prepared:
        """What to send in place of what was refused because of the template.

        Raises:
            MinerError: it was refused for another reason, or nothing helps.
        """
        said = template_refusal(parse_error_body(raw).message)
        if said is None or prepared.fitted is None:
            raise self._error(status, raw, request, http.upstream)
        template = await self._template(http)
        apply = partial(self._apply_template, http)
        fitted = await template.refused(request, prepared.fitted, prepared.body, said, apply)
        return self._prepared_with(fitted, request, stream="stream" in prepared.body)

    async def _template(self, http: HttpClient) -> Template:
        """What is known of the chat template of the server behind this client."""
        if self._external:
            return (await self._facts()).template
        template = self._templates.get(http)
        if template is None:
            template = self._templates[http] = template_of(await self._ask_props(http))
        return template

    async def _apply_template(self, http: HttpClient, body: dict[str, Any]) -> tuple[int, str]:
        reply = await http.request("POST", "/apply-template", msgspec.json.encode(body), total=self._short, root=True)
        if reply.status != 200:
            return reply.status, parse_error_body(reply.body).message
        try:
            return 200, msgspec.json.decode(reply.body, type=_Applied).prompt
        except msgspec.DecodeError:
            return 501, "it does not say what it made of the messages"

    @override
    async def _post(
        self, path: str, body: dict[str, Any], request: ChatRequest | None = None, *, model: str | None = None,
        root: bool = False,
    ) -> bytes:  # fmt: skip
        try:
            return await super()._post(path, body, request, model=model, root=root)
        except UnsupportedFeatureError:
            self._server.refused(path)
            raise

    @override
    async def _count_tokens(self, request: ChatRequest) -> int:
        async with self._connection(request) as http:
            request = self._supported(request, http)
            prepared = await self._prepared(request, http, stream=False)
            while True:
                path, body = "/v1/chat/completions/input_tokens", prepared.body
                if prepared.fitted is None:
                    path, body = "/tokenize", {"content": request.prompt, "add_special": True}
                reply = await http.request("POST", path, msgspec.json.encode(body), root=True)
                if reply.status == 200:
                    break
                prepared = await self._refitted(prepared, request, http, reply.status, reply.body)
        counted = msgspec.json.decode(reply.body)
        return len(counted["tokens"]) if "tokens" in counted else int(counted["input_tokens"])

    # Models and health

    @override
    async def _context_of(self, info: ModelInfo) -> int | None:
        if not self._external:
            return info.context_length
        return (await self._facts()).props.default_generation_settings.n_ctx or info.context_length

    @override
    async def list_models(self) -> list[ModelInfo]:
        if self._external:
            models = await super().list_models()
            if self._one_model:
                await self._server.probed(self._http(), self._ask_props)
                models = [await self._told(info) for info in models]
            return models
        return await self._engines.infos()

    @property
    def _takes_any_name(self) -> bool:
        given = self.any_model_name
        return self._settings.any_model_name if given is None else given

    @override
    async def _sole_model(self) -> str | None:
        return await super()._sole_model() if self._external else (await self._engines.find(None))[0].alias

    @override
    async def _get_model(self, model_name: str | None) -> ModelInfo:
        if not self._external:
            return await self._engines.info(model_name, any_name=self._takes_any_name)
        assert model_name is not None
        info = await super()._get_model(model_name)
        return await self._told(info)

    async def _told(self, info: ModelInfo) -> ModelInfo:
        """The same with what the server at LLAMACPP_API_BASE can do."""
        info.capabilities = (await self._facts()).capabilities - {"keep_alive"}
        return info

    @override
    async def resolve_model(self, name: str | None = None) -> ModelInfo | None:
        if self._external:
            return await super().resolve_model(name)
        # MODEL_PATH goes before DEFAULT_MODEL here, and both before the one model of the directory: found in one go.
        info = await self._get_model(name)
        self.models[info.id] = info
        return info

    @override
    async def _health(self) -> Health:
        if self._external:
            return await super()._health()
        engines = self._local.status() if self._local else []
        reason = await asyncio.to_thread(launcher_available, self._settings.llamacpp_server)
        if reason is not None:
            return Health(state="unavailable", reason=reason, engines=engines)
        settings = self._settings
        try:
            models = [(await self._engines.find(None))[0].alias]
        except ModelNotFoundError as error:
            if settings.model_path or settings.default_model or not error.available:
                raise
            models = error.available  # several, of which a request names one
        ours = {engine.model: engine for engine in engines if engine.model in models}
        failed = [engine for engine in ours.values() if engine.state == "failed"]
        if failed and len(failed) == len(models):
            soonest = min(failed, key=lambda engine: engine.retry_after or 0.0)
            hint = "Fix the cause; to try again at once, reset the model."
            return Health(
                state="failed", reason=soonest.reason, models=models, engines=engines, hint=hint,
                retry_after=soonest.retry_after,
            )  # fmt: skip
        for engine in ours.values():
            if len(models) == 1 and engine.state == "starting" and engine.reason is not None:
                reason = f"{engine.model} is being started again. {engine.reason}"
                return Health(state="loading", reason=reason, models=models, engines=engines)
        return Health(state="ready", models=models, engines=engines)

    # Loading

    @override
    async def _load(self, info: ModelInfo, keep_alive: float | str | None) -> ModelInfo:
        if self._external:
            return info
        if keep_alive is not None or not info.loaded:
            seconds = None if keep_alive is None else seconds_of(keep_alive)
            async with self._engines.slot(info.id, keep_alive=seconds) as (running, _):
                await self._props_of(running)
        return await self._engines.info(info.id)

    @override
    async def unload_model(self, model: str) -> bool:
        """Stop a model's engine once its requests are done; whether there was one.

        Raises:
            BackendTimeoutError: they were not within MINER_QUEUE_TIMEOUT; the engine goes on then.
        """
        alias = await asyncio.to_thread(self._alias, model)
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
        return pull_from_hub(model, self._settings)

    def _alias(self, model: str) -> str:
        """The name under which a model's engine runs, also where its file is gone by now."""
        if self._external:
            raise self._not_ours("model")
        known = self._local.alias_of(model) if self._local is not None else None
        if known is not None:
            return known
        return find_model(model, self._settings, self._engines.models.catalogue).alias

    def _not_ours(self, param: str) -> UnsupportedFeatureError:
        return UnsupportedFeatureError(
            "The llama.cpp server at LLAMACPP_API_BASE is somebody else's: what it loads is not ours to say.",
            param=param,
            hint="Unset LLAMACPP_API_BASE, and engines are started here.",
        )

    @override
    async def aclose(self) -> None:
        local, self._local = self._local, None
        self._server = ForeignServer()
        if local is not None:
            await local.aclose()
        await super().aclose()
