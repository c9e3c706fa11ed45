"""OllamaService: the contract over Ollama's native API.

The native one and not its OpenAI layer, which ignores half of the parameters and turns an error in mid-stream into an
empty chunk.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec

from miner.core._typing import override
from miner.core.http.client import ConnectionLimits, HttpClient
from miner.core.http.errors import Upstream, parse_error_body
from miner.core.llms.contract.cache import TTLCache
from miner.core.llms.contract.stream import Batches
from miner.core.llms.contract.unparsed_reply import MalformedReplyError, final_chunk
from miner.core.llms.LLMService import LLMService
from miner.core.llms.ollama.errors import ollama_error
from miner.core.llms.ollama.models import (
    FEATURES,
    decode_any,
    decode_embeddings,
    decode_show,
    decode_tags,
    info_of_show,
    info_of_tag,
)
from miner.core.llms.ollama.pull import load_request, stream_pull
from miner.core.llms.ollama.response import decoded, read_lines
from miner.core.llms.ollama.wire import request_body
from miner.core.llms.schema.support import check_llama, drop_conflicting_format
from miner.core.wire import (
    ChatRequest,
    Embedding,
    EmbeddingResponse,
    Health,
    ModelInfo,
    TokenUsage,
    ToolCall,
)
from miner.errors import (
    BackendProtocolError,
    MinerError,
    ModelNotFoundError,
    UnsupportedFeatureError,
)

__all__ = ["OllamaService"]

_HEALTH_SECONDS = 1.5


class OllamaService(LLMService):
    """An Ollama server at OLLAMA_BASE_URL."""

    name = "ollama"

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._client: HttpClient | None = None
        self._client_made_for: tuple[str, float, ConnectionLimits] | None = None
        self._shown: TTLCache[str, ModelInfo] = TTLCache()

    @property
    @override
    def capabilities(self) -> frozenset[str]:
        return FEATURES

    def _http(self) -> HttpClient:
        settings = self._settings
        limits = self._connection_limits
        made_for = (settings.ollama_base_url, settings.ollama_timeout, limits)
        if self._client is None or made_for != self._client_made_for:
            if self._client is not None:
                self._client.retire()
                self._shown.clear()
            upstream = Upstream(
                backend=self.name,
                base_url=settings.ollama_base_url.rstrip("/"),
                timeout_setting="OLLAMA_TIMEOUT",
                read_timeout=settings.ollama_timeout,
                unreachable_hint="Start it with `ollama serve`, or set OLLAMA_BASE_URL.",
                address_setting="OLLAMA_BASE_URL",
                on_connection_lost=self._shown.clear,
            )
            self._client, self._client_made_for = HttpClient(upstream, limits=limits), made_for
        return self._client

    # Generation

    @override
    async def _check_schemas(self, request: ChatRequest, able: frozenset[str]) -> ChatRequest:
        request = drop_conflicting_format(request, self.name)
        await check_llama(request, self.name, bounds=False)
        return request

    def _body(self, request: ChatRequest) -> tuple[str, bytes]:
        known = request.resolution.model
        thinks = known is not None and "reasoning" in (known.capabilities or ())
        path, body = request_body(request, num_ctx=self._settings.ollama_num_ctx, thinks=thinks)
        return path, msgspec.json.encode(body)

    @override
    async def _stream(self, request: ChatRequest) -> Batches:
        path, body = self._body(request)
        http = self._http()
        calls: list[ToolCall] = []
        try:
            async with http.stream(path, body) as answer:
                if answer.status != 200:
                    raw = await answer.read_all()
                    after = answer.headers.get("Retry-After")
                    raise ollama_error(answer.status, parse_error_body(raw), http.upstream, request.model, after)
                async with aclosing(read_lines(answer, request, http.upstream)) as batches:
                    async for batch in batches:
                        if request.tools is not None:
                            calls += [call for chunk in batch for call in chunk.tool_calls or ()]
                        yield batch
        except MalformedReplyError as error:
            yield [final_chunk(request, calls, error)]

    # Models and health

    @override
    async def _context_of(self, info: ModelInfo) -> int | None:
        asked, longest = self._settings.ollama_num_ctx, info.context_length
        return min(asked, longest) if asked and longest else longest

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
        tags = decoded(await http.request("GET", "/api/tags"), http.upstream, decode_tags)
        return [info_of_tag(tag) for tag in tags.models if not tag.remote_host]

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
        if known is not None:
            return known
        http = self._http()
        reply = await http.request("POST", "/api/show", msgspec.json.encode({"model": model_name}), read_only=True)
        if reply.status == 404 and parse_error_body(reply.body).json:
            names = [model.id for model in await self._listed_models()]
            raise ModelNotFoundError(
                f"ollama at {http.upstream.shown_url} has no model {model_name!r}.",
                model=model_name,
                available=names,
                hint=f"Get it with `ollama pull {model_name}`, or use one of: {', '.join(names) or 'none'}.",
            )
        shown = decoded(reply, http.upstream, decode_show, model_name)
        if shown.remote_host or shown.remote_model:
            raise UnsupportedFeatureError(
                f"{model_name!r} runs on {shown.remote_host or 'a remote host'}, not on this Ollama server.",
                param="model",
                hint="Use a model that is pulled here: prompts must not leave the machine.",
            )
        info = info_of_show(model_name, shown)
        self._shown[model_name] = info
        return info

    @override
    async def _health(self) -> Health:
        http = self._http()
        reply = await http.request("GET", "/api/tags", total=_HEALTH_SECONDS)
        tags = decoded(reply, http.upstream, decode_tags).models
        names = [tag.name for tag in tags if not tag.remote_host]
        default = self._settings.default_model
        known = {name.lower() for name in names}  # as Ollama takes them
        if default and not {default.lower(), f"{default.lower()}:latest"} & known:
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
            writes="chat" in (info.capabilities or FEATURES),
            num_ctx=self._settings.ollama_num_ctx,
            keep_alive=keep_alive,
        )
        http = self._http()
        reply = await http.request("POST", path, msgspec.json.encode(body))
        decoded(reply, http.upstream, decode_any, info.id)
        return msgspec.structs.replace(info, loaded=True)

    @override
    async def unload_model(self, model: str) -> bool:
        info = await self.resolve_model(model)
        name = info.id if info is not None else model
        http = self._http()
        running = decoded(await http.request("GET", "/api/ps"), http.upstream, decode_tags)
        loaded = {name, f"{name}:latest"} & {tag.name for tag in running.models}
        body = {"model": name, "keep_alive": 0, "stream": False}
        reply = await http.request("POST", "/api/generate", msgspec.json.encode(body))
        decoded(reply, http.upstream, decode_any, name)
        return bool(loaded)

    @override
    def pull_model(self, model: str, *, insecure: bool = False) -> AsyncGenerator[dict[str, Any], None]:
        self._shown.clear()  # it may become another model
        return stream_pull(self._http(), model, insecure=insecure)

    async def delete_model(self, model: str) -> None:
        """Delete a model from the server's disk.

        Raises:
            ModelNotFoundError: the server has no such model.
        """
        self._shown.clear()
        http = self._http()
        reply = await http.request("DELETE", "/api/delete", msgspec.json.encode({"model": model}))
        if reply.status != 200:
            raise ollama_error(reply.status, parse_error_body(reply.body), http.upstream, model)

    # Embeddings

    @override
    async def _embed(self, texts: list[str], model: str | None) -> EmbeddingResponse:
        http = self._http()
        body = {"model": model, "input": texts, "truncate": False}
        reply = await http.request("POST", "/api/embed", msgspec.json.encode(body))
        answer = decoded(reply, http.upstream, decode_embeddings, model)
        if len(answer.embeddings) != len(texts):
            raise BackendProtocolError(
                f"ollama sent {len(answer.embeddings)} vectors for {len(texts)} texts.", **http.upstream.details(200)
            )
        count = answer.prompt_eval_count
        return EmbeddingResponse(
            data=[Embedding(index, vector) for index, vector in enumerate(answer.embeddings)],
            model=model,
            usage=TokenUsage(prompt_tokens=count, total_tokens=count) if count else None,
        )

    @override
    async def _aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()
