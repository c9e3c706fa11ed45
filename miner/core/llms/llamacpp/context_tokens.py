"""Conversations as token ids: a request that continues one, and the ids after its response.

That is how Ollama's `/api/generate` remembers. The ids of the conversation stay as they are, so its KV cache does too.
"""

from __future__ import annotations

from contextlib import aclosing

from msgspec.structs import replace

from miner.core.llms.contract.stream import Batches
from miner.core.llms.llamacpp.chat_template import as_sent
from miner.core.llms.llamacpp.server import LlamaServer
from miner.core.wire import ChatRequest


async def continued(request: ChatRequest, server: LlamaServer, *, verbatim: bool) -> ChatRequest:
    """Return a request with a context as one of token ids; any other request as it is.

    Args:
        verbatim: the model has no chat template.
    """
    if not request.context:
        return request
    tokens = [*request.context, *await _prompt_tokens(request, server, verbatim=verbatim)]
    return replace(request, prompt="", messages=None, prompt_tokens=tokens, raw=True)


async def with_context(batches: Batches, request: ChatRequest, server: LlamaServer, *, verbatim: bool) -> Batches:
    """The same batches; the chunk with the finish reason has the token ids of the conversation.

    Args:
        request: as `continued` returned it.
    """
    text: list[str] = []
    async with aclosing(batches):
        async for batch in batches:
            for chunk in batch:
                text += [part for part in (chunk.reasoning, chunk.content) if part]
                if chunk.finish_reason is not None:
                    prompt = request.prompt_tokens or await _prompt_tokens(request, server, verbatim=verbatim)
                    chunk.context = [*prompt, *await server.tokenize("".join(text), parse_special=True)]
            yield batch


async def _prompt_tokens(request: ChatRequest, server: LlamaServer, *, verbatim: bool) -> list[int]:
    """The token ids of the prompt with the chat template around it."""
    text = request.prompt or ""
    if not verbatim:
        template = await server.template()
        template_input = await template.prepare(request, constrained=False)
        status, rendered = await server.apply_template(
            {"messages": [as_sent(message) for message in template_input.messages]}
        )
        text = rendered if status == 200 else "".join(message.text() for message in request.as_messages())
    return await server.tokenize(text, special=not request.context, parse_special=True)
