"""OllamaService: the contract over Ollama's native API.

Not its OpenAI-compatible one, which ignores half of the parameters and sends an error inside a stream as an empty
chunk. What Ollama's errors mean is in ollama/errors.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec

from miner.core._typing import override
from miner.core.http.errors import parse_error_body
from miner.core.llms.contract.cache import TTLCache
from miner.core.llms.contract.stream import Batches
from miner.core.llms.contract.unparsed_reply import MalformedReplyError, final_chunk
from miner.core.llms.http_backend import Endpoint, HTTPBackend
from miner.core.llms.ollama.errors import ollama_error
from miner.core.llms.ollama.management import (
    add_blob,
    card_of_show,
    change,
    has_blob,
    running_of,
    stream_create,
)
from miner.core.llms.ollama.models import (
    FEATURES,
    decode_any,
    decode_embeddings,
    decode_show,
    decode_tags,
    info_of_show,
    info_of_tag,
)
from miner.core.llms.ollama.pull import stream_pull
from miner.core.llms.ollama.request import load_request, request_body
from miner.core.llms.ollama.response import decode_response, read_lines
from miner.core.llms.schema.support import check_llama, drop_conflicting_format
from miner.core.model_card import ModelCard, ModelRecipe, RunningModel
from miner.core.wire import ChatRequest, Embedding, EmbeddingResponse, ModelInfo, TokenUsage, ToolCall
from miner.errors import BackendProtocolError, MinerError, ModelNotFoundError, UnsupportedFeatureError

__all__ = ["OllamaService"]

T = TypeVar("T")


class OllamaService(HTTPBackend):
    """An Ollama server at OLLAMA_BASE_URL."""

    name = "ollama"
    unreachable_hint = "Start it with `ollama serve`, or set OLLAMA_BASE_URL."
    no_model_hint = "Pull one with `ollama pull NAME`."
    timeout_setting = "OLLAMA_TIMEOUT"
    address_setting = "OLLAMA_BASE_URL"

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._shown: TTLCache[str, ModelInfo] = TTLCache()

    @property
    @override
    def capabilities(self) -> frozenset[str]:
        return FEATURES

    @override
    def endpoint(self) -> Endpoint:
        settings = self._settings
        return Endpoint(settings.ollama_base_url.rstrip("/"), timeout=settings.ollama_timeout)

    @override
    def _clear_caches(self) -> None:
        self._shown.clear()

    async def _call(
        self, path: str, body: dict[str, Any] | None, decode: Callable[[bytes], T], model: str | None = None,
        *, total: float | None = None,
    ) -> T:  # fmt: skip
        """GET, or POST a body, and decode the response. `model`: the one that the request names."""
        http = self._http()
        if body is None:
            response = await http.request("GET", path, total=total)
        else:
            response = await http.request("POST", path, msgspec.json.encode(body), total=total)
        return decode_response(response, http.upstream, decode, model)

    # Generation

    @override
    async def _check_schemas(self, request: ChatRequest, able: frozenset[str]) -> ChatRequest:
        request = drop_conflicting_format(request, self.name)
        await check_llama(request, self.name, bounds=False)
        return request

    def _body(self, request: ChatRequest) -> tuple[str, bytes]:
        model = request.resolution.model
        reasons = model is not None and "reasoning" in (model.capabilities or ())
        path, body = request_body(request, num_ctx=self._settings.ollama_num_ctx, reasons=reasons)
        return path, msgspec.json.encode(body)

    @override
    async def _stream(self, request: ChatRequest) -> Batches:
        path, body = self._body(request)
        http = self._http()
        calls: list[ToolCall] = []
        try:
            async with http.stream(path, body) as response:
                if response.status != 200:
                    error_body = parse_error_body(await response.read_all())
                    retry_after = response.headers.get("Retry-After")
                    raise ollama_error(response.status, error_body, http.upstream, request.model, retry_after)
                async with aclosing(read_lines(response, request, http.upstream)) as batches:
                    async for batch in batches:
                        if request.tools is not None:
                            calls += [call for chunk in batch for call in chunk.tool_calls or ()]
                        yield batch
        except MalformedReplyError as error:
            yield [final_chunk(request, calls, error)]

    # Models and health

    @override
    async def _context_of(self, info: ModelInfo) -> int | None:
        num_ctx, longest = self._settings.ollama_num_ctx, info.context_length
        return min(num_ctx, longest) if num_ctx and longest else longest

    @override
    async def list_models(self) -> list[ModelInfo]:
        listed = await self._served_models()
        # Capabilities are in `/api/show` only; a model for which that fails is listed all the same.
        shown = await asyncio.gather(*(self._get_model(model.id) for model in listed), return_exceptions=True)
        for model, info in zip(listed, shown, strict=True):
            if isinstance(info, ModelInfo):
                model.capabilities, model.context_length = info.capabilities, info.context_length
                model.parameters, model.dimensions = info.parameters, info.dimensions
            elif not isinstance(info, MinerError):
                raise info
        return listed

    @override
    async def _served_models(self, *, total: float | None = None) -> list[ModelInfo]:
        """The models of `/api/tags`, without those that run on another host."""
        tags = await self._call("/api/tags", None, decode_tags, total=total)
        return [info_of_tag(tag) for tag in tags.models if not tag.remote_host]

    @override
    async def _sole_model(self) -> str | None:
        names = [model.id for model in await self._served_models()]
        if len(names) == 1:
            return names[0]
        raise self._no_sole_model(names)

    @override
    async def _get_model(self, model_name: str) -> ModelInfo:
        cached = self._shown.get(model_name)
        if cached is not None:
            return cached
        http = self._http()
        response = await http.request("POST", "/api/show", msgspec.json.encode({"model": model_name}), read_only=True)
        if response.status == 404 and parse_error_body(response.body).json:
            names = [model.id for model in await self._served_models()]
            raise ModelNotFoundError(
                f"{http.upstream.label} has no model {model_name!r}.",
                model=model_name,
                available=names,
                hint=f"Available: {', '.join(names)}." if names else None,
                operator_hint=self._missing_model_hint(model_name, names),
            )
        shown = decode_response(response, http.upstream, decode_show, model_name)
        if shown.remote_host or shown.remote_model:
            raise UnsupportedFeatureError(
                f"{model_name!r} runs on {shown.remote_host or 'a remote host'}, not on this Ollama server.",
                param="model",
                hint="Use a model of this server: prompts must not leave the machine.",
            )
        info = info_of_show(model_name, shown)
        self._shown[model_name] = info
        return info

    @override
    def _has_name(self, model: ModelInfo, name: str) -> bool:
        return name.lower() in (model.id.lower(), *(alias.lower() for alias in model.aliases))  # as Ollama does

    @override
    def _missing_model_hint(self, name: str, names: Sequence[str]) -> str:
        return f"Pull it with `ollama pull {name}`."

    # Loading

    @override
    async def _load(self, info: ModelInfo, keep_alive: float | str | None) -> ModelInfo:
        path, body = load_request(
            info.id,
            generates="chat" in (info.capabilities or FEATURES),
            num_ctx=self._settings.ollama_num_ctx,
            keep_alive=keep_alive,
        )
        await self._call(path, body, decode_any, info.id)
        return msgspec.structs.replace(info, loaded=True)

    @override
    async def unload_model(self, model: str) -> bool:
        info = await self.resolve_model(model)
        name = info.id if info is not None else model
        running = await self._call("/api/ps", None, decode_tags)
        loaded = {name, f"{name}:latest"} & {tag.name for tag in running.models}
        await self._call("/api/generate", {"model": name, "keep_alive": 0, "stream": False}, decode_any, name)
        return bool(loaded)

    @override
    def pull_model(self, model: str, *, insecure: bool = False) -> AsyncGenerator[dict[str, Any], None]:
        self._shown.clear()  # the name may become another model
        return stream_pull(self._http(), model, insecure=insecure)

    # The server's own models

    @override
    async def show_model(self, model: str, *, verbose: bool = False) -> ModelCard:
        info = await self.resolve_model(model)
        assert info is not None
        body = {"model": info.id, **({"verbose": True} if verbose else {})}
        return card_of_show(info, await self._call("/api/show", body, decode_any, info.id))

    @override
    async def running_models(self) -> list[RunningModel]:
        upstream, running = self._http().upstream, await self._call("/api/ps", None, decode_any)
        return [running_of(entry, upstream) for entry in running.get("models") or ()]

    @override
    def create_model(self, name: str, recipe: ModelRecipe) -> AsyncGenerator[dict[str, Any], None]:
        self._shown.clear()
        return stream_create(self._http(), name, recipe)

    @override
    async def copy_model(self, source: str, destination: str) -> None:
        self._shown.clear()
        body = {"source": source, "destination": destination}
        await change(self._http(), "POST", "/api/copy", body, source)

    @override
    async def delete_model(self, model: str) -> None:
        self._shown.clear()
        await change(self._http(), "DELETE", "/api/delete", {"model": model}, model)

    @override
    async def has_blob(self, digest: str) -> bool:
        return await has_blob(self._http(), digest)

    @override
    async def add_blob(self, digest: str, content: AsyncIterator[bytes]) -> bool:
        return await add_blob(self._http(), digest, content)

    # Embeddings

    @override
    async def _embed(self, texts: list[str], model: str | None) -> EmbeddingResponse:
        body = {"model": model, "input": texts, "truncate": False}
        response = await self._call("/api/embed", body, decode_embeddings, model)
        vectors, tokens = response.embeddings, response.prompt_eval_count
        if len(vectors) != len(texts):
            problem = f"sent {len(vectors)} embeddings for {len(texts)} texts."
            raise self._http().upstream.error(BackendProtocolError, problem, status=200)
        return EmbeddingResponse(
            data=[Embedding(index, vector) for index, vector in enumerate(vectors)],
            model=model,
            usage=TokenUsage(prompt_tokens=tokens, total_tokens=tokens) if tokens else None,
        )
