"""What Ollama's routes ask of a model besides text: that it is loaded, or goes, and how long its context is."""

from __future__ import annotations

import msgspec
from aiohttp import web

from miner.core.models.names import without_tag
from miner.errors import ModelNotFoundError, UnsupportedFeatureError
from miner.gateway.apis.base import Call
from miner.gateway.apis.ollama.common import Common, OllamaOptions, now, unloads
from miner.gateway.apis.ollama.stream import Kind, said
from miner.gateway.catalog import could_be_a_file, known_models
from miner.gateway.context import RequestContext
from miner.gateway.generation import json_response

__all__ = ["complete", "full_name", "load"]


async def full_name(context: RequestContext, name: str) -> str:
    """The name without `:latest`, where only that one is known: Ollama's clients put it behind any name."""
    short = without_tag(name)
    if short in ("", name) or could_be_a_file(name):
        return name
    try:
        meant = await context.gateway.service.resolve_model(name)
    except ModelNotFoundError:
        return name  # told once it is known what this caller may see
    if meant is not None and meant.id != name:
        return short if short.lower() in (meant.id.lower(), *(alias.lower() for alias in meant.aliases)) else name
    # A backend that takes any name says by its list which it means.
    names = {known for model in await known_models(context) for known in (model.id, *model.aliases)}
    return short if name not in names and short in names else name


async def complete(context: RequestContext, call: Call, options: OllamaOptions | None) -> None:
    """Fill in what only the model tells: its name, and what `num_ctx` and a `num_predict` without end mean for it."""
    service, arguments = context.gateway.service, call.arguments[0]
    call.model = arguments["model"] = await full_name(context, arguments["model"])
    if "keep_alive" in arguments and "keep_alive" not in service.capabilities:
        call.ignored.append("keep_alive")  # the model stays loaded whatever a client says
        del arguments["keep_alive"]
    options = options or OllamaOptions()
    endless = options.num_predict is not None and options.num_predict < 0
    if options.num_ctx is None and not endless:
        return
    info = await service.resolve_model(call.model)
    context_length = info.context_length if info is not None else None
    if options.num_ctx is not None and (context_length is None or options.num_ctx > context_length):
        # Loading is the operator's affair. Nothing is lost silently: what does not fit is refused.
        call.ignored.append("options.num_ctx")
    if endless and context_length is not None:
        arguments["max_tokens"] = context_length
    elif endless:
        call.ignored.append("options.num_predict")


async def load(context: RequestContext, asked: Common, kind: Kind) -> web.StreamResponse:
    """Answer an empty prompt: the model is loaded, or with `keep_alive` 0 let go."""
    service = context.gateway.service
    name = await full_name(context, asked.model)
    await context.enter(Call(arguments=[], model=name))
    goes, keep_alive = unloads(asked.keep_alive), asked.keep_alive
    if "keep_alive" not in service.capabilities:
        if goes:
            raise UnsupportedFeatureError(
                f"{service.name} does not support keep_alive: its models stay loaded.", param="keep_alive"
            )
        if keep_alive is not None:
            context.ignored.append("keep_alive")
            keep_alive = None
    if goes:
        await service.unload_model(name)
    else:
        await service.load_model(name, keep_alive=keep_alive)
    body = {
        "model": asked.model,
        "created_at": now(),
        **said(kind, "", None),
        "done": True,
        "done_reason": "unload" if goes else "load",
    }
    return json_response(context, msgspec.json.encode(body))
