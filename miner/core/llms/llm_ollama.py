"""OllamaService: the contract over Ollama's native API.

The native one and not its OpenAI layer, which ignores half of the parameters and turns an error in mid-stream into an
empty chunk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec

from miner.core._typing import override
from miner.core.llms.join import join
from miner.core.llms.LLMService import LLMService
from miner.core.llms.ollama_errors import error_in_answer, ollama_error
from miner.core.llms.ollama_loading import load_request, pull_events
from miner.core.llms.ollama_wire import LineMapper, decode_line, request_body
from miner.core.llms.stream import Batches
from miner.core.transport.faults import Origin, parse_error_body
from miner.core.transport.framing import FramingError, NDJSONDecoder
from miner.core.transport.http import ByteStream, HttpClient, Reply
from miner.core.wire import (
    ChatRequest,
    Embedding,
    EmbeddingResponse,
    Health,
    LLMChunk,
    LLMResponse,
    ModelInfo,
    TokenUsage,
)
from miner.errors import (
    BackendProtocolError,
    MinerError,
    ModelNotFoundError,
    StreamInterruptedError,
    UnsupportedFeatureError,
)

__all__ = ["OllamaService"]

T = TypeVar("T")

_SHOW_FRESH_SECONDS = 60.0
_HEALTH_SECONDS = 1.5
_FEATURES = frozenset(
    """chat tools json_object json_schema reasoning logprobs seed embeddings images stop top_k min_p repeat_penalty
    presence_penalty frequency_penalty parallel_tool_calls response_format timeout keep_alive raw extra""".split()
)
_OF_MODEL = {"tools": "tools", "thinking": "reasoning", "vision": "images", "embedding": "embeddings"}
"""Ollama's word for a model's ability, and ours."""


class OllamaService(LLMService):
    """An Ollama server at OLLAMA_BASE_URL."""

    name = "ollama"

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._client: HttpClient | None = None
        self._client_made_for: tuple[str, float] | None = None
        self._shown: dict[str, tuple[float, ModelInfo]] = {}

    @property
    @override
    def capabilities(self) -> frozenset[str]:
        return _FEATURES

    def _http(self) -> HttpClient:
        settings = self._settings
        made_for = (settings.ollama_base_url, settings.ollama_timeout)
        if self._client is None or made_for != self._client_made_for:
            if self._client is not None:
                self._client.discard()
            origin = Origin(
                backend=self.name,
                base_url=settings.ollama_base_url.rstrip("/"),
                timeout_setting="OLLAMA_TIMEOUT",
                silence=settings.ollama_timeout,
                unreachable="Start it with `ollama serve`, or set OLLAMA_BASE_URL.",
                address_setting="OLLAMA_BASE_URL",
            )
            self._client, self._client_made_for = HttpClient(origin), made_for
        return self._client

    # Generation

    def _body(self, request: ChatRequest, *, stream: bool) -> tuple[str, bytes]:
        known = self._shown.get(request.model or "")
        thinks = known is not None and "reasoning" in (known[1].capabilities or ())
        path, body = request_body(request, num_ctx=self._settings.ollama_num_ctx, thinks=thinks, stream=stream)
        return path, msgspec.json.encode(body)

    @override
    async def _chat(self, request: ChatRequest) -> LLMResponse:
        path, body = self._body(request, stream=False)
        http = self._http()
        reply = await http.request("POST", path, body)
        line = self._decoded(reply, http.origin, request, decode_line)
        if line.error is not None:
            raise error_in_answer(parse_error_body(reply.body), http.origin, begun=False)
        mapper = LineMapper(request)
        chunk = mapper.chunk(line)
        self._check_end(mapper, http.origin)
        response = join([[chunk] if chunk is not None else []])
        response.model = request.model
        return response

    @override
    async def _stream(self, request: ChatRequest) -> Batches:
        path, body = self._body(request, stream=True)
        http = self._http()
        async with http.stream(path, body) as answer:
            if answer.status != 200:
                raw = await answer.read_all()
                raise ollama_error(
                    answer.status, parse_error_body(raw), http.origin, request.model, answer.headers.get("Retry-After")
                )
            async with aclosing(self._lines(answer, request, http.origin)) as batches:
                async for batch in batches:
                    yield batch

    async def _lines(self, answer: ByteStream, request: ChatRequest, origin: Origin) -> Batches:
        """The chunks of the lines, in the batches in which they arrived."""
        mapper = LineMapper(request)
        frames = NDJSONDecoder()
        while not mapper.finished:
            piece = await answer.read_some()
            batch: list[LLMChunk] = []
            try:
                for raw in frames.feed(piece) if piece else frames.flush():
                    line = decode_line(raw)
                    if line.error is not None:
                        raise error_in_answer(parse_error_body(raw), origin, begun=mapper.delivered)
                    chunk = mapper.chunk(line)
                    if chunk is not None:
                        batch.append(chunk)
            except (MinerError, msgspec.DecodeError, RecursionError) as error:
                if batch:
                    yield batch  # what came before the fault is delivered before it
                if not piece and isinstance(error, msgspec.DecodeError) and raw.startswith(b"{"):
                    break  # a truncated tail is a broken stream, not a garbled one
                if isinstance(error, RecursionError):
                    raise FramingError("JSON that is nested without end") from error
                raise
            if batch:
                yield batch
            if not piece:
                break
        answer.over = mapper.finished
        self._check_end(mapper, origin)

    def _check_end(self, mapper: LineMapper, origin: Origin) -> None:
        """Make sure that the reply that just ended is one."""
        if mapper.finished and mapper.lost is None:
            return
        where = f"ollama at {origin.shown_url}"
        if not mapper.finished:
            raise StreamInterruptedError(
                f"{where} ended its answer before it was done.",
                hint="What had arrived is in the error's `partial`; Ollama's log says why it stopped.",
                **origin.details(200),
            )
        if mapper.lost is not None:
            raise BackendProtocolError(
                f"{where} lost its reply: {mapper.lost}.", hint="Raise max_tokens, or leave tools out.",
                **origin.details(200),
            )  # fmt: skip

    def _decoded(self, reply: Reply, origin: Origin, request: ChatRequest | None, decode: Callable[[bytes], T],
                 model: str | None = None) -> T:  # fmt: skip
        if reply.status != 200:
            name = request.model if request is not None else model
            raise ollama_error(
                reply.status, parse_error_body(reply.body), origin, name, reply.headers.get("Retry-After")
            )
        try:
            return decode(reply.body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise BackendProtocolError(
                f"ollama at {origin.shown_url} answered with something that is not its API: {error}.",
                hint=origin.misplaced(),
                **origin.details(200),
            ) from error

    # Models and health

    @override
    async def list_models(self) -> list[ModelInfo]:
        listed = await self._listed_models()
        # What each can do is told only one by one; a model that cannot be shown is listed all the same.
        shown = await asyncio.gather(*(self._get_model(model.id) for model in listed), return_exceptions=True)
        for model, info in zip(listed, shown, strict=True):
            if isinstance(info, ModelInfo):
                model.capabilities, model.context_length = info.capabilities, info.context_length
                model.parameters, model.dimensions = info.parameters, info.dimensions
            elif not isinstance(info, MinerError):
                raise info
        return listed

    async def _listed_models(self) -> list[ModelInfo]:
        """What /api/tags says, without models that run elsewhere."""
        http = self._http()
        tags = self._decoded(await http.request("GET", "/api/tags"), http.origin, None, _decode_tags)
        return [_listed(tag) for tag in tags.models if not tag.remote_host]

    @override
    async def _sole_model(self) -> str | None:
        names = [model.id for model in await self._listed_models()]
        if len(names) == 1:
            return names[0]
        raise ModelNotFoundError(
            f"ollama has {'several models' if names else 'no model'} and none was named.",
            available=names,
            hint=f"Name one, or set DEFAULT_MODEL: {', '.join(names)}." if names else "Get one: `ollama pull NAME`.",
        )

    @override
    async def _get_model(self, model_name: str) -> ModelInfo:
        known = self._shown.get(model_name)
        if known is not None and time.monotonic() - known[0] < _SHOW_FRESH_SECONDS:
            return known[1]
        http = self._http()
        reply = await http.request("POST", "/api/show", msgspec.json.encode({"model": model_name}))
        if reply.status == 404 and parse_error_body(reply.body).json:
            names = [model.id for model in await self._listed_models()]
            raise ModelNotFoundError(
                f"ollama at {http.origin.shown_url} has no model {model_name!r}.",
                model=model_name,
                available=names,
                hint=f"Get it with `ollama pull {model_name}`, or use one of: {', '.join(names) or 'none'}.",
            )
        shown = self._decoded(reply, http.origin, None, _decode_show, model_name)
        if shown.remote_host or shown.remote_model:
            raise UnsupportedFeatureError(
                f"{model_name!r} runs on {shown.remote_host or 'a remote host'}, not on this Ollama server.",
                param="model",
                hint="Use a model that is pulled here: prompts must not leave the machine.",
            )
        info = _shown(model_name, shown)
        self._shown[model_name] = (time.monotonic(), info)
        return info

    @override
    async def _health(self) -> Health:
        http = self._http()
        reply = await http.request("GET", "/api/tags", total=_HEALTH_SECONDS)
        tags = self._decoded(reply, http.origin, None, _decode_tags).models
        names = [tag.name for tag in tags if not tag.remote_host]
        default = self._settings.default_model
        if default and not {default, f"{default}:latest"} & set(names):
            return Health(
                state="unavailable",
                reason=f"ollama has no model {default!r} (DEFAULT_MODEL).",
                hint=f"Get it with `ollama pull {default}`.",
                models=names,
            )
        if not names:
            return Health(state="unavailable", reason="ollama has no model.", hint="Get one: `ollama pull NAME`.")
        return Health(state="ready", models=names)

    # Loading

    @override
    async def _load(self, info: ModelInfo, keep_alive: float | str | None) -> ModelInfo:
        path, body = load_request(
            info.id,
            writes="chat" in (info.capabilities or _FEATURES),
            num_ctx=self._settings.ollama_num_ctx,
            keep_alive=keep_alive,
        )
        http = self._http()
        reply = await http.request("POST", path, msgspec.json.encode(body))
        self._decoded(reply, http.origin, None, _decode_any, info.id)
        return msgspec.structs.replace(info, loaded=True)

    @override
    async def unload_model(self, model: str) -> bool:
        info = await self._usable_model(model)
        name = info.id if info is not None else model
        http = self._http()
        running = self._decoded(await http.request("GET", "/api/ps"), http.origin, None, _decode_tags)
        loaded = {name, f"{name}:latest"} & {tag.name for tag in running.models}
        body = {"model": name, "keep_alive": 0, "stream": False}
        reply = await http.request("POST", "/api/generate", msgspec.json.encode(body))
        self._decoded(reply, http.origin, None, _decode_any, name)
        return bool(loaded)

    @override
    def pull_model(self, model: str, *, insecure: bool = False) -> AsyncGenerator[dict[str, Any], None]:
        self._shown.clear()  # it may become another model
        return pull_events(self._http(), model, insecure=insecure)

    # Embeddings

    @override
    async def _embed(self, texts: list[str], model: str | None) -> EmbeddingResponse:
        http = self._http()
        body = {"model": model, "input": texts, "truncate": False}
        reply = await http.request("POST", "/api/embed", msgspec.json.encode(body))
        answer = self._decoded(reply, http.origin, None, _decode_embeddings, model)
        if len(answer.embeddings) != len(texts):
            raise BackendProtocolError(
                f"ollama sent {len(answer.embeddings)} vectors for {len(texts)} texts.", **http.origin.details(200)
            )
        count = answer.prompt_eval_count
        return EmbeddingResponse(
            data=[Embedding(index, vector) for index, vector in enumerate(answer.embeddings)],
            model=model,
            usage=TokenUsage(prompt_tokens=count, total_tokens=count),
        )

    @override
    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()


class _Details(msgspec.Struct):
    family: str | None = None
    parameter_size: str | None = None
    quantization_level: str | None = None
    context_length: int | None = None


class _Tag(msgspec.Struct):
    name: str
    size: int | None = None
    digest: str | None = None
    details: _Details = msgspec.field(default_factory=_Details)
    remote_host: str | None = None


class _Tags(msgspec.Struct):
    models: list[_Tag] = []


class _Show(msgspec.Struct):
    details: _Details = msgspec.field(default_factory=_Details)
    model_info: dict[str, Any] = {}
    capabilities: list[str] = []
    remote_model: str | None = None
    remote_host: str | None = None


class _Embeddings(msgspec.Struct):
    embeddings: list[list[float]] = []
    prompt_eval_count: int = 0


_decode_tags = msgspec.json.Decoder(_Tags).decode
_decode_show = msgspec.json.Decoder(_Show).decode
_decode_any = msgspec.json.Decoder(dict[str, Any]).decode
_decode_embeddings = msgspec.json.Decoder(_Embeddings).decode


def _listed(tag: _Tag) -> ModelInfo:
    return ModelInfo(
        id=tag.name,
        aliases=[tag.name.removesuffix(":latest")] if tag.name.endswith(":latest") else [],
        context_length=tag.details.context_length,
        size=tag.size,
        quantization=tag.details.quantization_level,
        architecture=tag.details.family,
        digest=tag.digest,
    )


def _shown(name: str, shown: _Show) -> ModelInfo:
    architecture = shown.model_info.get("general.architecture")
    abilities = {_OF_MODEL[word] for word in shown.capabilities if word in _OF_MODEL}
    able = (_FEATURES - set(_OF_MODEL.values())) | abilities
    if "completion" not in shown.capabilities and shown.capabilities:
        able = frozenset(abilities | {"timeout", "keep_alive", "extra"})
    return ModelInfo(
        id=name,
        context_length=shown.model_info.get(f"{architecture}.context_length"),
        dimensions=shown.model_info.get(f"{architecture}.embedding_length"),
        parameters=shown.model_info.get("general.parameter_count"),
        quantization=shown.details.quantization_level,
        architecture=architecture,
        capabilities=frozenset(able),
    )
