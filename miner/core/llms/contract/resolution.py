"""Resolves the model of a validated request and checks length, parameters and schemas against it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from miner.core.llms.contract.backend import Backend
from miner.core.llms.contract.capabilities import refuse_unsupported
from miner.core.llms.contract.preset import apply_preset
from miner.core.wire import ChatRequest, ModelInfo
from miner.errors import ContextLengthError, UnsupportedFeatureError

_TOKEN_BYTES = 256
"""More than the longest token of known vocabularies has (runs of 128 spaces), so what is refused could never fit."""


async def resolve(backend: Backend, request: ChatRequest) -> ChatRequest:
    """Return the request as its model can honour it. The result is in `request.resolution`; a model that is
    there already is not looked up again.

    Raises:
        RequestError: the model cannot serve it.
    """
    info = request.resolution.model or await backend.resolve_model(request.model)
    able, where = backend.capabilities, backend.name
    if info is not None:
        request = replace(request, model=info.id)
        if info.preset is not None:
            request = apply_preset(request, info.preset)
        request.resolution.model = info
        known = await backend._capabilities_of(info, request)
        if known is not None:
            able, where = known, f"{backend.name}'s model {info.id!r}"
        param = "messages" if request.messages is not None else "prompt"
        context, tokens = await backend._context_of(info), len(request.prompt_tokens or request.context or ())
        check_length(_texts_of(request), context, where, param, tokens=tokens)
    request = refuse_unsupported(request, able, where)
    if request.response_format is not None or request.tools is not None:
        request = await backend._check_schemas(request, able) or request
    return request


async def model_for_texts(
    backend: Backend, model: str | None, capability: str, inputs: Sequence[tuple[str | list[int], ...]], param: str
) -> ModelInfo | None:
    """Return the model for a request that generates nothing; None if the backend names no models.

    Args:
        inputs: texts or token ids that go into the model together, each tuple by itself.

    Raises:
        RequestError: there is no such model, it lacks the capability, or an input is longer than its context.
    """
    info = await backend.resolve_model(model)
    able = backend.capabilities if info is None or info.capabilities is None else info.capabilities
    where = backend.name if info is None else f"{backend.name}'s model {info.id!r}"
    if capability not in able:
        raise UnsupportedFeatureError(f"{where} does not support {capability}.", param="model")
    if "prompt_tokens" not in able and not all(isinstance(text, str) for texts in inputs for text in texts):
        raise UnsupportedFeatureError(
            f"{where} does not support {param} of token ids (prompt_tokens).", param=param, hint="Send texts."
        )
    if info is not None:
        context = await backend._context_of(info)
        for texts in inputs:
            tokens = sum(len(text) for text in texts if not isinstance(text, str))
            check_length([text for text in texts if isinstance(text, str)], context, where, param, tokens=tokens)
    return info


def _texts_of(request: ChatRequest) -> Iterable[str]:
    """The texts that all go into the prompt."""
    if request.prompt is not None:
        yield request.prompt
    if request.suffix is not None:
        yield request.suffix
    for message in request.messages or ():
        yield message.text()
        for call in message.tool_calls or ():
            yield call["function"]["arguments"]
    for tool in request.tools or ():
        yield tool["function"].get("description") or ""


def add_context_length(error: ContextLengthError, info: ModelInfo | None) -> None:
    """Set the context length of an error whose engine does not tell it: clients shorten a conversation by it."""
    if error.context_length is None and info is not None:
        error.context_length = info.context_length


def check_length(
    texts: Iterable[str], context_length: int | None, where: str, param: str | None, *, tokens: int = 0
) -> None:
    """Refuse texts that cannot fit the context however they are tokenized, before an engine spends a minute and
    gigabytes on counting their tokens.

    Args:
        context_length: in tokens; None: unknown, anything passes.
        where: names the model in the message.
        tokens: tokens of the prompt besides the texts.

    Raises:
        ContextLengthError: with the smallest number of tokens that it could be.
    """
    if context_length is None:
        return
    size = sum(len(text) if text.isascii() else len(text.encode(errors="replace")) for text in texts)
    least = tokens + -(-size // _TOKEN_BYTES)
    if least > context_length:
        raise ContextLengthError(
            f"The prompt has at least {least} tokens ({size} bytes), the context {context_length} ({where}).",
            prompt_tokens=least,
            context_length=context_length,
            param=param,
            hint="Shorten the prompt.",
            operator_hint="Or load the model with a longer context.",
        )
