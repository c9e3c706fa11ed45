"""Fill-in-the-middle on llama.cpp: the prompt is put together here, from the tokens that the model has for it.

Not by the server's `/infill`, which truncates both texts silently to what fits into one batch.
"""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from miner.core.llms.llamacpp.server import LlamaServer
from miner.core.wire import ChatRequest
from miner.errors import UnsupportedFeatureError


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
