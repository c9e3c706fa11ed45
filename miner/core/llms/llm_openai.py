"""OpenAIAPIService: any server that speaks OpenAI's API, such as SGLang, LM Studio, TabbyAPI or another miner."""

from __future__ import annotations

from typing import Any

import msgspec

from miner.config.secrets import secret_text
from miner.core._typing import override
from miner.core.http.errors import ErrorBody
from miner.core.llms.openai.models import read_tokens
from miner.core.llms.openai.request import effort_of
from miner.core.llms.openai.service import Endpoint, OpenAIService
from miner.core.subjects import subject
from miner.core.wire import ChatRequest, ModelInfo, RerankResponse, Token
from miner.errors import BackendError, BackendProtocolError, ConfigError, MinerError, UnsupportedFeatureError

__all__ = ["OpenAIAPIService"]

_OWNED = {
    "vllm": frozenset({"top_k", "min_p", "repeat_penalty"}),
    "llamacpp": frozenset({"top_k", "min_p", "repeat_penalty"}),
}
"""`owned_by` in a server's list of models -> what it has beyond OpenAI's API."""
_GATEWAY = frozenset(
    """top_k min_p repeat_penalty reasoning images emulated prompt_tokens suffix count_tokens rerank regex grammar
    keep_alive""".split()
)
"""What a gateway of miner takes beyond it, for the models that list it among their capabilities."""


class OpenAIAPIService(OpenAIService):
    """The server at MINER_OPENAI_API_BASE. It is sent what OpenAI's API has; of what goes beyond that, what its list of
    models says: a gateway of miner has capabilities there, vLLM and llama.cpp their names.

    Ranking and token counts are tried: a server that lacks their routes is an UnsupportedFeatureError that names them.
    """

    name = "openai"
    features = OpenAIService.features | {"images", "rerank", "count_tokens"}
    beyond = _GATEWAY
    unreachable_hint = "Start the server, or set MINER_OPENAI_API_BASE; `curl {url}/models` must respond."
    timeout_setting = "MINER_OPENAI_TIMEOUT"
    key_setting = "MINER_OPENAI_API_KEY"
    address_setting = "MINER_OPENAI_API_BASE (with its /v1)"

    @classmethod
    @override
    def not_configured(cls, config: Any = None) -> str | None:
        from miner.config.config import config_of

        return None if config_of(config).openai_api_base else "MINER_OPENAI_API_BASE is not set"

    @override
    def endpoint(self) -> Endpoint:
        settings = self._settings
        if not settings.openai_api_base:
            raise ConfigError(
                "MINER_OPENAI_API_BASE is not set.",
                operator_hint="Set it to the server's URL with its /v1, such as http://localhost:30000/v1.",
            )
        return Endpoint(
            settings.openai_api_base.rstrip("/"), secret_text(settings.openai_api_key), settings.openai_timeout
        )

    @override
    async def _served_models(self, *, total: float | None = None) -> list[ModelInfo]:
        models = await super()._served_models(total=total)
        for model in models:
            if model.capabilities is None and model.owned_by in _OWNED:
                model.capabilities = self.features | _OWNED[model.owned_by]
        return models

    @override
    def adjust(self, body: dict[str, Any], request: ChatRequest) -> None:
        info = request.resolution.model
        if "repeat_penalty" in body and info is not None and info.owned_by == "vllm":
            body["repetition_penalty"] = body.pop("repeat_penalty")
        if request.reasoning is not None and info is not None and "reasoning" in (info.capabilities or ()):
            body["reasoning_effort"] = effort_of(request.reasoning)
        if request.keep_alive is not None:
            body["keep_alive"] = request.keep_alive
        if (output := request.response_format) is not None and output.kind in ("regex", "grammar"):
            body["response_format"] = {"type": output.kind, output.kind: body.pop(output.kind)}

    @override
    def refine(self, status: int, body: ErrorBody, request: ChatRequest | None) -> MinerError | None:
        if status == 501 or (status == 500 and body.message.startswith("image input is not supported")):
            server = f"The server at {self._http().upstream.shown_url}"
            return UnsupportedFeatureError(f"{server} does not support this: {body.message}", param="model")
        return None

    @override
    async def _rerank(self, query: str, documents: list[str], model: str | None, top_n: int | None) -> RerankResponse:
        try:
            return await super()._rerank(query, documents, model, top_n)
        except BackendError as error:
            if _is_missing(error):
                raise self._lacking("does not rerank: it has no /v1/rerank", "rerank") from error
            raise

    @override
    async def _count_tokens(self, request: ChatRequest) -> int:
        if self._verbatim(request):
            return len(await self._tokenize(request.prompt or "", request.model, special=True))
        messages = [msgspec.to_builtins(message) for message in request.as_messages()]
        body: dict[str, Any] = {"model": request.model, "messages": messages}
        if request.tools:
            body["tools"] = request.tools
        # OpenAI's own route has other forms of messages and tools, in which not all of these can be written.
        plain = request.tools is None and all(type(each.get("content")) is str for each in messages)
        tried = [("/responses/input_tokens", {"model": request.model, "input": messages})] if plain else []
        tried += [("/chat/completions/input_tokens", body), ("/tokenize", body)]
        for path, sent in tried:
            try:
                return _count(await self._post(path, sent, request, root=path == "/tokenize"))
            except UnsupportedFeatureError:
                continue
            except BackendError as error:
                if not _is_missing(error):
                    raise
            except msgspec.DecodeError as error:
                raise BackendProtocolError(
                    f"{subject(self.name)} sent no token count: {error}.", backend=self.name
                ) from error
        raise UnsupportedFeatureError(
            f"The server at {self._http().upstream.shown_url} does not count tokens: it has none of "
            f"{', '.join(path for path, _ in tried)}.",
            param="count_tokens",
        )

    @override
    async def _tokenize(self, text: str, model: str | None, *, special: bool) -> list[Token]:
        # In llama.cpp's words and in vLLM's: each reads its own.
        body = {"model": model, "content": text, "add_special": special, "with_pieces": True}
        body |= {"prompt": text, "add_special_tokens": special, "return_token_strs": True}
        try:
            return read_tokens(await self._post("/tokenize", body, model=model, root=True), self.name)
        except BackendError as error:
            if _is_missing(error):
                raise self._lacking("does not tell the tokens of a text: it has no /tokenize", "text") from error
            raise

    def _lacking(self, what: str, param: str) -> UnsupportedFeatureError:
        return UnsupportedFeatureError(f"The server at {self._http().upstream.shown_url} {what}.", param=param)


class _Counted(msgspec.Struct):
    input_tokens: int | None = None
    count: int | None = None


def _count(raw: bytes) -> int:
    counted = msgspec.json.decode(raw, type=_Counted)
    number = counted.input_tokens if counted.input_tokens is not None else counted.count
    if number is None:
        raise msgspec.DecodeError("neither input_tokens nor count is there")
    return number


def _is_missing(error: BackendError) -> bool:
    """Whether the server has no such route."""
    return error.status in (404, 405)
