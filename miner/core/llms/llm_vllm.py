"""VLLMService: the differences between vLLM and other OpenAI-compatible servers. Facts are those of vLLM 0.32.

A vLLM error becomes one of miner in `VLLMService.refine` below; other errors are mapped by its HTTP status in
`OpenAIServer._error` (openai/server.py) through `miner.core.http.errors`, which also maps every transport error.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from miner.config.secrets import secret_text
from miner.core._typing import override
from miner.core.http.errors import ErrorBody, parse_error_body
from miner.core.llms.contract.audio import AudioReply, no_audio
from miner.core.llms.contract.cache import TTLCache
from miner.core.llms.contract.tools import with_object_arguments
from miner.core.llms.openai.models import read_embeddings, read_tokens
from miner.core.llms.openai.request import effort_of
from miner.core.llms.openai.response import decode_event
from miner.core.llms.openai.service import Endpoint, NoTemplateError, OpenAIService
from miner.core.llms.schema.support import check_vllm, drop_conflicting_format
from miner.core.wire import ChatRequest, EmbeddingResponse, ModelInfo, Token
from miner.errors import (
    BackendError,
    BackendOverloadedError,
    BackendProtocolError,
    BackendUnavailableError,
    ContextLengthError,
    InvalidRequestError,
    MinerError,
    ModelNotFoundError,
    UnsupportedFeatureError,
)

__all__ = ["VLLMService"]

_FIELDS = frozenset(
    """add_special_tokens allowed_token_ids bad_words cache_salt chat_template chat_template_kwargs documents ignore_eos
    include_reasoning include_stop_str_in_output length_penalty media_io_kwargs min_tokens mm_processor_kwargs
    repetition_detection session_id skip_special_tokens spaces_between_special_tokens stop_token_ids stream_interval
    thinking_token_budget vllm_xargs watermarking""".split()
)
"""Not what it would return in fields of its own (`prompt_logprobs`, `return_token_ids`), what would let a client take
precedence or name another's request (`priority`, `request_id`), send the server to another (`kv_transfer_params`), or
cut the prompt (`truncate_prompt_tokens`).
"""
_PROBE_SECONDS = 5.0
_POOLING_FEATURES = frozenset({"embeddings", "rerank", "timeout", "prompt_tokens"})
_TOOL_FLAGS = "Start the server with --enable-auto-tool-choice --tool-call-parser NAME."


class VLLMService(OpenAIService):
    """A vLLM server at VLLM_API_BASE."""

    name = "vllm"
    unreachable_hint = (
        "Start it with `miner vllm --model NAME --run` (python -m vllm.entrypoints.openai.api_server --model NAME), "
        "or set VLLM_API_BASE; `curl {url}/models` must respond. A model takes minutes to load."
    )
    timeout_setting = "VLLM_TIMEOUT"
    key_setting = "VLLM_API_KEY"
    address_setting = "VLLM_API_BASE (with its /v1)"
    reports_load = True
    features = OpenAIService.features | frozenset(
        """top_k min_p repeat_penalty regex grammar reasoning count_tokens rerank prompt_tokens suffix
        continuous_usage echo""".split()
    )
    field_names = {"repeat_penalty": "repetition_penalty"}  # noqa: RUF012
    neutral = {  # noqa: RUF012
        "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
    }  # fmt: skip

    @property
    @override
    def engine_fields(self) -> frozenset[str]:
        return _FIELDS

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._reasoning_parser: TTLCache[str, bool] = TTLCache()
        self._routes: TTLCache[str, frozenset[str]] = TTLCache()

    @override
    def _clear_caches(self) -> None:
        super()._clear_caches()
        self._reasoning_parser.clear()
        self._routes.clear()

    @override
    def endpoint(self) -> Endpoint:
        settings = self._settings
        return Endpoint(settings.vllm_api_base.rstrip("/"), secret_text(settings.vllm_api_key), settings.vllm_timeout)

    @override
    async def _served_models(self, *, total: float | None = None) -> list[ModelInfo]:
        models = await super()._served_models(total=total)
        capabilities = self._routes.get("routes")
        if capabilities is None:
            capabilities = self._routes["routes"] = await self._probe(total)
        for model in models:
            model.capabilities = capabilities
            self._drop_reasoning(model)
        return models

    @override
    async def list_models(self) -> list[ModelInfo]:
        models = await super().list_models()
        for model in models:
            if "reasoning" in (model.capabilities or ()):
                await self._probe_reasoning(model)
        return models

    @override
    async def _capabilities_of(self, info: ModelInfo, request: ChatRequest) -> frozenset[str] | None:
        if request.reasoning:
            await self._probe_reasoning(info)
        return info.capabilities

    @override
    async def _check_schemas(self, request: ChatRequest, able: frozenset[str]) -> ChatRequest:
        request = drop_conflicting_format(request, self.name)
        check_vllm(request, self.name)
        return request

    async def _probe_reasoning(self, info: ModelInfo) -> None:
        """Take "reasoning" from a model whose server does not separate it from content (--reasoning-parser): vLLM then
        ignores `reasoning_effort` silently. Only its usage shows it (`reasoning_tokens`), so one token is generated,
        once for each model; not on other servers, which report usage differently and may have to load the model first.
        """
        model = info.id
        if info.owned_by == "vllm" and model not in self._reasoning_parser:
            body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
            http = self._http()
            try:
                response = await http.request(
                    "POST", "/chat/completions", msgspec.json.encode(body), total=_PROBE_SECONDS
                )
                usage = decode_event(response.body).usage if response.status == 200 else None
            except (BackendError, msgspec.DecodeError):
                usage = None
            if usage is not None:  # without usage it remains unknown
                self._reasoning_parser[model] = usage.completion_tokens_details is not None
        self._drop_reasoning(info)

    def _drop_reasoning(self, info: ModelInfo) -> None:
        if self._reasoning_parser.get(info.id) is False:
            info.capabilities = (info.capabilities or self.features) - {"reasoning"}

    async def _probe(self, total: float | None) -> frozenset[str]:
        """Find out what the server serves: text, or embeddings and scores, or (a cross-encoder) scores only. A route
        that exists refuses GET with 405, another one with 404; all other statuses leave every feature enabled.
        """
        http = self._http()
        total = _PROBE_SECONDS if total is None else total
        try:
            text = (await http.request("GET", "/chat/completions", total=total)).status
            embeddings = (await http.request("GET", "/embeddings", total=total)).status
            scores = (await http.request("GET", "/rerank", total=total)).status
        except BackendError:
            return self.features
        if not {text, embeddings, scores} <= {404, 405} or (text, embeddings, scores) == (404, 404, 404):
            return self.features
        lacking = {word for word, status in (("embeddings", embeddings), ("rerank", scores)) if status == 404}
        return (self.features if text == 405 else _POOLING_FEATURES) - lacking

    @override
    def adjust(self, body: dict[str, Any], request: ChatRequest) -> None:
        info = request.resolution.model
        if info is not None and info.context_length is not None:
            # The server truncates max_tokens to what fits (context_exhausted), but refuses more than the context. An
            # unlimited response gets the context too: its default may come from the model's generation_config.json.
            body["max_tokens"] = int(min(request.token_limit, info.context_length))
        if request.messages is not None and request.messages[-1].role == "assistant":
            body["continue_final_message"] = True
            body["add_generation_prompt"] = False
        _replace_broken_arguments(body.get("messages", ()))
        if "tools" in body:
            # Only for strict tools does vLLM enforce the schema of the arguments.
            body["tools"] = [{**tool, "function": {"strict": True, **tool["function"]}} for tool in body["tools"]]
        if (output := request.response_format) is not None and output.kind in ("regex", "grammar"):
            body["structured_outputs"] = {output.kind: body.pop(output.kind)}
        if request.echo:
            body["echo"] = True
        # Another server may refuse the field, which the client has not asked for.
        counts_prompt = request.prompt_usage and info is not None and info.owned_by == "vllm"
        if (request.continuous_usage or counts_prompt) and "stream_options" in body:
            body["stream_options"]["continuous_usage_stats"] = True
        if request.reasoning is not None:
            body["reasoning_effort"] = effort_of(request.reasoning)

    @override
    @asynccontextmanager
    async def audio(
        self, path: str, body: bytes, content_type: str, model: str | None = None
    ) -> AsyncIterator[AudioReply]:
        http = self._http()
        async with http.stream(path, body, content_type=content_type) as response:
            if response.status == 200:
                yield AudioReply(response.headers.get("Content-Type", "application/json"), response.read_some)
                return
            raw = await response.read_all()
            error = parse_error_body(raw)
            if response.status in (404, 405) and not error.fields.get("type"):
                raise no_audio("This vllm server")
            if response.status == 404 and error.param == "model":
                raise ModelNotFoundError(f"vllm: {error.message}")
            raise self._error(response.status, raw, None, http.upstream, response.headers.get("Retry-After"))

    @override
    async def _embed_short(self, texts: list[str], model: str | None, dimensions: int) -> EmbeddingResponse:
        body = {"model": model, "input": texts, "encoding_format": "float", "dimensions": dimensions}
        return read_embeddings(await self._post("/embeddings", body, model=model), texts, model, self.name)

    @override
    async def _count_tokens(self, request: ChatRequest) -> int:
        body: dict[str, Any] = {"model": request.model}
        if self._verbatim(request):
            body["prompt"] = request.prompt
        else:
            body["messages"] = [msgspec.to_builtins(message) for message in request.as_messages()]
            _replace_broken_arguments(body["messages"])
            if request.tools:
                body["tools"] = request.tools
        try:
            raw = await self._post("/tokenize", body, request, root=True)
        except NoTemplateError:
            return await self._count_tokens(request)  # verbatim now
        try:
            return msgspec.json.decode(raw, type=_Count).count
        except msgspec.DecodeError as error:
            raise BackendProtocolError(f"vllm sent no token count: {error}.", backend=self.name) from error

    @override
    async def _tokenize(self, text: str, model: str | None, *, special: bool) -> list[Token]:
        body = {"model": model, "prompt": text, "add_special_tokens": special, "return_token_strs": True}
        return read_tokens(await self._post("/tokenize", body, model=model, root=True), self.name)

    @override
    def refine(self, status: int, body: ErrorBody, request: ChatRequest | None) -> MinerError | None:
        """Return the error that vLLM's message means; None: the HTTP status decides."""
        text = body.message
        upstream = self._http().upstream
        if "EngineCore" in text:
            return upstream.error(
                BackendUnavailableError, f"has crashed: {text}", status=status, engine_died=True,
                operator_hint="Restart the vLLM server.",
            )  # fmt: skip
        if status == 503 and body.type == "Service Unavailable":
            return upstream.error(
                BackendOverloadedError, f"has a full queue: {text}", status=status, hint="Try again later."
            )
        if status == 404 and not body.fields.get("type"):
            missing = "embeddings or reranking" if request is None else "chat"
            return UnsupportedFeatureError(
                f"This vllm server does not serve {missing}.", param="model",
                operator_hint="Start it with --runner generate for text, or with --runner pooling for the others.",
            )  # fmt: skip
        if status != 400:
            return None
        if body.param == "input_tokens" or "maximum context length" in text:
            limit, count = _two_numbers(text)
            known = re.search(
                r"maximum context length is (\d+) tokens.* your prompt (?:contains|has) (at least )?(\d+)", text
            )
            message = f"The prompt is too long for vllm: {text}"
            if known is not None:
                message = f"The prompt has {known[2] or ''}{known[3]} tokens, the context {known[1]} (vllm)."
            return ContextLengthError(
                message, prompt_tokens=count, context_length=limit, hint="Shorten the prompt.",
                operator_hint="Raise the server's --max-model-len.",
            )  # fmt: skip
        if any(sign in text for sign in _NO_TEMPLATE):
            if request is not None and request.prompt is not None and request.model and not self._verbatim(request):
                self._no_template[request.model] = True
                return NoTemplateError("The model has no chat template.", param="messages")
            return UnsupportedFeatureError(
                "The model has no chat template: it accepts prompts, not messages.", param="messages",
                operator_hint="Start the server with --chat-template FILE.",
            )  # fmt: skip
        for sign, param, hint in _UNSUPPORTED:
            if sign in text:
                return UnsupportedFeatureError(f"vllm: {text}", param=param, operator_hint=hint)
        return InvalidRequestError(f"vllm refused the request: {text}", param=body.param)


_NO_TEMPLATE = ("default chat template is no longer allowed", "tokenizer.chat_template is not set")
"""Messages of vLLM, and of transformers under it, about a model without one; others mention templates too."""
_UNSUPPORTED = (
    ("--trust-request-chat-template", "extra", "Start the server with --trust-request-chat-template."),
    ("tool choice requires", "tools", _TOOL_FLAGS),
    ("--tool-call-parser", "tools", _TOOL_FLAGS),
    ("not a multimodal model", "messages", "Start the server with a multimodal model."),
    ("stop strings", "stop", "VLLM_MAX_STOP_STRINGS is their number."),
    ("suffix is only supported", "suffix", "Serve a model that vLLM can fill gaps with, such as Codestral."),
    ("reasoning", "reasoning", "Start the server with --reasoning-parser NAME."),
)


class _Count(msgspec.Struct):
    count: int


def _replace_broken_arguments(messages: Iterable[dict[str, Any]]) -> None:
    """Arguments of earlier calls that are no object: the server would replace them by `{}` silently."""
    for message in messages:
        if calls := message.get("tool_calls"):
            message["tool_calls"] = with_object_arguments(calls)


def _two_numbers(text: str) -> tuple[int | None, int | None]:
    """Return context length and prompt length from "maximum context length is 2048 tokens. However, your prompt
    contains at least 2049 input tokens".
    """
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    return (numbers[0] if numbers else None, numbers[1] if len(numbers) > 1 else None)
