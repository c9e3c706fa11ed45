"""Fill-in-the-middle on llama.cpp: the prompt is put together here, from the tokens that the model has for it.

Not by the server's `/infill`, which truncates both texts silently to what fits into one batch.
"""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec.structs import replace

from miner.core.llms.llamacpp.server import LlamaServer
from miner.core.models.gguf.fim import FimTokens
from miner.core.wire import ChatRequest
from miner.errors import InvalidRequestError, UnsupportedFeatureError

_BATCH = 2048
"""Tokens of the prefix and the suffix of `/infill` together: llama-server's default batch. Ours is smaller, and would
truncate both to a hundred tokens.
"""
_SNIPPET = "\n\n--- snippet ---\n\n"
"""Between files, where the model has no token for that."""
_FORM = 'must be an array of {"filename": string, "text": string}'


async def filled_in(request: ChatRequest, server: LlamaServer) -> ChatRequest:
    """Return a request with a suffix as one of token ids; any other request as it is.

    Raises:
        UnsupportedFeatureError: the model has no tokens for that.
    """
    if request.suffix is None:
        return request
    fim = await server.fim_tokens()
    if fim is None:
        where = server.http.upstream.backend
        raise UnsupportedFeatureError(f"{where}'s model {request.model!r} does not support suffix.", param="suffix")
    start, before, after = await asyncio.gather(
        server.tokenize("", special=True), server.tokenize(request.prompt or ""), server.tokenize(request.suffix)
    )
    tokens = [*start[:1], fim.prefix, *before, fim.suffix, *after, fim.middle]
    return replace(request, prompt="", prompt_tokens=tokens, suffix=None, raw=True)


async def as_completion(path: str, body: dict[str, Any], server: LlamaServer) -> tuple[str, dict[str, Any]]:
    """Return path and body of a generation in llama.cpp's own form: on an engine of ours, `/infill` as a completion of
    the very prompt that `/infill` has at llama-server's default batch size. All else stays as it is.

    Raises:
        RequestError: what `/infill` refuses.
    """
    if path != "/infill" or not server.is_ours:
        return path, body
    fim = await server.fim_tokens()
    if fim is None:
        raise UnsupportedFeatureError("Infill is not supported by this model: it has no tokens for it.", param="native")
    fields = {name: body.get(name) for name in ("input_prefix", "input_suffix", "prompt", "input_extra")}
    for name in ("input_prefix", "input_suffix"):
        if fields[name] is None:
            raise InvalidRequestError(f'"{name}" is required', param=name)
    for name in ("input_prefix", "input_suffix", "prompt"):
        if not isinstance(fields[name] or "", str):
            raise InvalidRequestError(f'"{name}" must be a string', param=name)
    prefix, suffix, prompt, start = await asyncio.gather(
        *(server.tokenize(fields[name] or "") for name in ("input_prefix", "input_suffix")),
        server.tokenize(fields["prompt"] or "", parse_special=True),
        server.tokenize("", special=True),
    )
    extra = await _files(fields["input_extra"] or [], fim, server)
    context = (server.props.default_generation_settings.n_ctx if server.props is not None else None) or _BATCH
    batch = min(_BATCH, context)
    suffix = suffix[: max(0, batch // 4 - 2 - len(prompt))]
    tokens = [*start[:1], fim.prefix, *prefix[-(3 * batch // 4) :], *prompt, fim.suffix, *suffix, fim.middle]
    predicted = body.get("n_predict")
    limit = predicted if isinstance(predicted, int) and predicted > 0 else 0
    room = max(0, context - batch - 2 * limit)
    rest = {name: value for name, value in body.items() if name not in fields}
    return "/completion", {**rest, "prompt": [*(extra[-room:] if room else ()), *tokens]}


async def _files(files: Any, fim: FimTokens, server: LlamaServer) -> list[int]:
    """The tokens of other files; of too many, the last are used."""
    if not isinstance(files, list):
        raise InvalidRequestError(f'"input_extra" {_FORM}', param="input_extra")
    tokens = [] if fim.repository is None else [fim.repository, *await server.tokenize("myproject\n")]
    for place, file in enumerate(files):
        text, name = (file.get("text"), file.get("filename", "tmp")) if isinstance(file, dict) else (None, None)
        if not isinstance(text, str) or not isinstance(name, str):
            raise InvalidRequestError(f'"input_extra" {_FORM}', param=f"input_extra[{place}]")
        if fim.file is not None:
            tokens += [fim.file, *await server.tokenize(f"{name}\n")]
        else:
            tokens += await server.tokenize(_SNIPPET)
        tokens += await server.tokenize(text)
    if fim.file is not None:
        tokens += [fim.file, *await server.tokenize("filename\n")]
    return tokens
