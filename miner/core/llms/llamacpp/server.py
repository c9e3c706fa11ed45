"""Client of one llama.cpp server (beyond OpenAI's API), and the interface of its providers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, ClassVar, Literal, TypeVar

import msgspec

from miner.core.engine.events import EngineEvents
from miner.core.engine.logtail import EngineLog
from miner.core.http.client import HttpClient
from miner.core.http.errors import parse_error_body, status_error
from miner.core.llms.llamacpp.chat_template import ChatTemplate
from miner.core.llms.llamacpp.creation import ModelMaker
from miner.core.llms.llamacpp.dialect import Props, refine
from miner.core.llms.llamacpp.prompt_gate import PromptGate, PromptPermit
from miner.core.llms.llamacpp.slots import Placement
from miner.core.model_card import ModelCard, RunningModel
from miner.core.models.gguf.fim import NAMES, FimTokens
from miner.core.wire import UNLIMITED, ChatRequest, Health, ModelInfo, Progress, Timings
from miner.errors import BackendProtocolError, UnsupportedFeatureError

T = TypeVar("T")

OnProgress = Callable[[Progress], None] | None
"""Called while a model loads or a request waits."""

_MAX_SECONDS = 30.0
"""Timeout of a request that generates no token, where the read timeout is not shorter."""


class _Prompt(msgspec.Struct):
    prompt: str


class _Tokens(msgspec.Struct):
    tokens: list[int] = []


class LlamaServer:
    """A client of one run of a llama.cpp server.

    Args:
        prompts: bounds the prompts that it processes at once; None: no bound, for a server that others use too.
    """

    is_ours: ClassVar[bool] = False
    """Whether it was started here, with options of ours."""

    def __init__(self, http: HttpClient, *, prompts: PromptGate | None = None) -> None:
        self.http = http
        self._prompts = prompts
        self.props: Props | None = None
        """Its last `/props`; None before the first `fetch_props`."""
        self._template: ChatTemplate | None = None
        self._fim: FimTokens | Literal[False] | None = None
        """None: not looked for yet."""

    @property
    def _timeout(self) -> float:
        return min(_MAX_SECONDS, self.http.upstream.read_timeout)

    def supported(self, request: ChatRequest) -> ChatRequest:
        """The request as this server can serve it: parameters that it may ignore are left out.

        Raises:
            UnsupportedFeatureError: it cannot do what the request needs.
        """
        return request

    async def fetch_props(self) -> Props:
        """GET /props, and keep it. The probed chat template is kept unless the props have changed.

        Raises:
            BackendProtocolError: it is no llama.cpp server.
            MinerError: no response, or an error.
        """
        upstream = self.http.upstream
        response = await self.http.request("GET", "/props", total=self._timeout, root=True)
        if response.status != 200:
            body, details = parse_error_body(response.body), upstream.details(response.status)
            error = refine(response.status, body, upstream.backend, details)
            raise error or status_error(response.status, body, upstream)
        try:
            props = msgspec.json.decode(response.body, type=Props)
        except msgspec.DecodeError as error:
            raise BackendProtocolError(
                f"{upstream.label} is no llama.cpp server: {error}.", **upstream.details(200)
            ) from error
        if props != self.props:
            self.props, self._template, self._fim = props, None, None
        return props

    async def template(self) -> ChatTemplate:
        """Its chat template, with the restrictions that were found so far."""
        props = self.props or await self.fetch_props()
        if self._template is None:
            caps = props.chat_template_caps
            self._template = ChatTemplate(
                self.apply_template,
                can_probe=props.build_info is not None,
                has_tools=caps.supports_tools,
                has_system_role=caps.supports_system_role,
            )
        return self._template

    async def apply_template(self, body: dict[str, Any]) -> tuple[int, str]:
        """POST /apply-template: the status, and the prompt or the error's message."""
        raw = msgspec.json.encode(body)
        response = await self.http.request("POST", "/apply-template", raw, total=self._timeout, root=True)
        if response.status != 200:
            return response.status, parse_error_body(response.body).message
        try:
            return 200, msgspec.json.decode(response.body, type=_Prompt).prompt
        except msgspec.DecodeError:
            return 501, "the response has no prompt"

    async def tokenize(self, text: str, *, special: bool = False, parse_special: bool = False) -> list[int]:
        """POST /tokenize: the token ids of a text; none if the server does not say.

        Args:
            special: add the special tokens of a prompt's beginning.
            parse_special: take the names of special tokens in the text for these.
        """
        raw = msgspec.json.encode({"content": text, "add_special": special, "parse_special": parse_special})
        response = await self.http.request("POST", "/tokenize", raw, total=self._timeout, root=True)
        return msgspec.json.decode(response.body, type=_Tokens).tokens if response.status == 200 else []

    async def count_tokens(self, text: str) -> int:
        """The number of tokens of a text, without special ones at the beginning; 0 if unknown."""
        return len(await self.tokenize(text, parse_special=True))

    async def fim_tokens(self) -> FimTokens | None:
        """The model's tokens for fill-in-the-middle; None if it has none. Found by their names, once for each run."""
        if self._fim is None:
            self._fim = False
            for names in NAMES:
                tokens = await self.tokenize("".join(names), parse_special=True)
                if len(tokens) == len(names):
                    self._fim = FimTokens(*tokens)
                    break
        return self._fim or None

    def engine_slot(
        self, body: dict[str, Any], *, conversation: bool, resumed: Placement | None
    ) -> AbstractAsyncContextManager[Placement | None]:
        """To be held while a request is served: names its slot in the body. None: the server chooses.

        Args:
            conversation: the request is likely to be continued.
            resumed: the slot of the request that this one completes.
        """
        return nullcontext()

    def slot_used(self, placement: Placement | None) -> None:
        """The server has taken the request: the slot holds its prompt from now on."""

    def prompt_permit(self, body: bytes, placement: Placement | None = None) -> PromptPermit | nullcontext[None]:
        """To be held from before a request is sent until its prompt is processed."""
        if self._prompts is None:
            return nullcontext()
        return self._prompts.permit(body if placement is None else placement.new_tokens)


class ServerProvider:
    """Provides the servers of a service: engines of its own, or one external server.

    `inherited` is the implementation for any OpenAI-compatible server: the default here.
    """

    manages_models: bool = False
    """Whether models are found, loaded and pulled here."""

    @property
    def capabilities(self) -> frozenset[str]:
        """What a server supports; a model may support less."""
        raise NotImplementedError

    @property
    def events(self) -> EngineEvents | None:
        """Where changes of engines are told; None: none are started here."""
        return None

    @property
    def max_slots(self) -> int | None:
        """Slots that a server can have; None: any number."""
        return None

    @property
    def server_slots(self) -> int | None:
        """Slots that a server which is not ours has said it has."""
        return None

    @property
    def has_native(self) -> bool:
        """Whether a server is llama.cpp's own, with its routes and fields."""
        return True

    @property
    def converts_schemas(self) -> bool:
        """Whether a server takes JSON Schemas; else it takes grammars only."""
        return True

    @property
    def unlimited_tokens(self) -> int:
        """The `max_tokens` with which a server generates until the context ends."""
        return UNLIMITED

    def slot(
        self, request: ChatRequest | None, model: str | None, timings: Timings, on_progress: OnProgress = None
    ) -> AbstractAsyncContextManager[LlamaServer]:
        """Wait for one slot of a server that is ready, for the length of the block; sets `timings.queue` and `load`.

        Args:
            request: None for embeddings and rankings.
            model: its name, if there is no request.

        Raises:
            BackendOverloadedError: the queue is full, or the wait was too long.
        """
        raise NotImplementedError

    async def without_slot(self, model: str | None, ask: Callable[[LlamaServer], Awaitable[T]]) -> T:
        """The result of a question to a server that computes nothing: it waits for no slot of one that runs."""
        async with self.slot(None, model, Timings()) as server:
            return await ask(server)

    async def list_models(self, inherited: Callable[[], Awaitable[list[ModelInfo]]]) -> list[ModelInfo]:
        """All models that can be named."""
        return await inherited()

    async def get_model(self, name: str | None, inherited: Callable[[str], Awaitable[ModelInfo]]) -> ModelInfo:
        """The model of this name."""
        assert name is not None
        return await inherited(name)

    async def sole_model(self, inherited: Callable[[], Awaitable[str | None]]) -> str | None:
        """The name of the model that is used where none is named."""
        return await inherited()

    async def show_model(
        self, model: str, inherited: Callable[[], Awaitable[ModelCard]], *, verbose: bool
    ) -> ModelCard:
        """All that is known of a model."""
        return await inherited()

    async def running_models(self, inherited: Callable[[], Awaitable[list[RunningModel]]]) -> list[RunningModel]:
        """The models that are in memory."""
        return await inherited()

    @property
    def maker(self) -> ModelMaker | None:
        """Creates, copies and deletes models; None: that is not possible."""
        return None

    async def context_length(self, info: ModelInfo) -> int | None:
        """Tokens of a slot; None where it is not known."""
        return info.context_length

    async def health(self, inherited: Callable[[], Awaitable[Health]]) -> Health:
        """Whether a request could be served now. Starts nothing."""
        return await inherited()

    async def load(self, info: ModelInfo, keep_alive: float | str | None) -> ModelInfo:
        """Make the model ready; a server that runs already has loaded it."""
        return info

    async def unload(self, model: str) -> bool:
        """Stop the model's engine once its requests are done; return whether there was one."""
        raise _not_managed("model")

    async def stop(self, model: str) -> bool:
        """Stop the model's engine now, whatever it does; return whether there was one."""
        raise _not_managed("model")

    def reset(self, model: str) -> None:
        """Forget that the model's engine failed."""
        raise _not_managed("model")

    async def engine_log(self, model: str) -> EngineLog:
        """The last lines of the model's engine."""
        raise _not_managed("model")

    def pin(self, model: str) -> None:
        """Never evict the model's engine, nor unload it when it is idle. It need not be loaded yet."""
        raise _not_managed("model")

    def unpin(self, model: str) -> None:
        """Undo `pin`."""
        raise _not_managed("model")

    def pull(self, model: str, *, insecure: bool) -> AsyncGenerator[dict[str, Any], None]:
        """Download a model; yields Ollama's pull events."""
        raise _not_managed("pull")

    async def aclose(self) -> None:
        """Stop all engines that were started here."""
        raise NotImplementedError


def _not_managed(param: str) -> UnsupportedFeatureError:
    return UnsupportedFeatureError(
        "This llama.cpp server is not managed by miner: its models cannot be loaded, unloaded or pulled here.",
        param=param,
        operator_hint="Unset LLAMACPP_API_BASE to run engines here.",
    )
