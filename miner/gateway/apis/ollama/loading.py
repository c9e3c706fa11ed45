"""The model of a request: its full name, what `options` mean for it, and loading or unloading it."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from miner.core.llms.contract.request import seconds_of
from miner.core.llms.LLMService import LLMService
from miner.core.models.names import without_tag
from miner.errors import BackendError, ModelNotFoundError, UnsupportedFeatureError
from miner.gateway.apis.ollama.convert import engine_options, required_model
from miner.gateway.apis.ollama.response import Kind, text_fields, timestamp
from miner.gateway.apis.ollama.schema import OllamaGenerationParams, OllamaOptions
from miner.gateway.catalog import known_models
from miner.gateway.context import RequestContext
from miner.gateway.dialect import Call
from miner.gateway.errors import RefusedError
from miner.gateway.generation import json_response
from miner.gateway.model_backend import backend_of, could_be_a_file


async def full_name(context: RequestContext, name: str) -> str:
    """The name without `:latest`, where only that one is known: Ollama's clients append it to any name."""
    short = without_tag(name)
    if short in ("", name) or could_be_a_file(name) or context.gateway.service.rules_of(name).names:
        return name  # the names of a table are known with and without it
    try:
        meant = await context.gateway.service.resolve_model(name)
    except ModelNotFoundError:
        return name  # raised again once it is known what this caller may see
    if meant is not None and meant.id != name:
        return short if short.lower() in (meant.id.lower(), *(alias.lower() for alias in meant.aliases)) else name
    # A backend that takes any name says by its list which it means.
    names = {known for model in await known_models(context) for known in (model.id, *model.aliases)}
    return short if name not in names and short in names else name


async def apply_model(context: RequestContext, call: Call, options: OllamaOptions | None) -> None:
    """Add what depends on the model: its full name, and whether `num_ctx` fits its context."""
    service, arguments = context.gateway.service, call.arguments[0]
    call.model = arguments["model"] = await full_name(context, arguments["model"])
    if "keep_alive" in arguments and "keep_alive" not in (await backend_of(service, call.model)).capabilities:
        call.ignored.append("keep_alive")  # the model stays loaded whatever a client says
        del arguments["keep_alive"]
    if options is None:
        return
    known = engine_options(options, call, service.rules_of(call.model).engine_fields)
    if known:
        arguments["extra"] = {**known, **(arguments.get("extra") or {})}
    if options.num_ctx is None:
        return
    try:
        info = await service.resolve_model(call.model)
    except BackendError:
        info = None  # another model may take over; else the request says why
    context_length = info.context_length if info is not None else None
    if context_length is None or options.num_ctx > context_length:
        # Loading is up to the operator. Nothing is lost silently: what does not fit is refused.
        call.ignored.append("options.num_ctx")


async def load(
    context: RequestContext, request: OllamaGenerationParams, kind: Kind, foreign: dict[str, Any]
) -> web.StreamResponse:
    """Respond to a request without a prompt: load the model, or with `keep_alive` 0 (also "0", "0s") unload it."""
    service = context.gateway.service
    name = await full_name(context, required_model(request.model))
    await context.start_call(Call([], name, foreign=foreign, fields=type(request).__struct_fields__))
    keep_alive, backend = request.keep_alive, await backend_of(service, name)
    if request.think:
        info = await service.resolve_model(name)
        able = backend.capabilities if info is None or info.capabilities is None else info.capabilities
        if "reasoning" not in able:  # the command checks by this whether it may ask for reasoning
            raise UnsupportedFeatureError(f'"{request.model}" does not support thinking', param="think")
    unload = keep_alive is not None and seconds_of(keep_alive) == 0
    if "keep_alive" not in backend.capabilities:
        if unload:
            raise UnsupportedFeatureError(
                f"{backend.name} does not support keep_alive: its models stay loaded.", param="keep_alive"
            )
        if keep_alive is not None:
            context.ignored.append("keep_alive")
            keep_alive = None
    if keep_alive is None:
        with context.gateway.only_loads(context):
            await service.load_model(name)
    else:
        may_end = context.caller.admin or context.caller.anonymous  # who has a key may not end what others wait for
        if unload and not may_end and await others_wait(service, name):
            raise RefusedError(
                409, "model_is_loading", f"Other requests wait until {name!r} is loaded.",
                hint="Unload it once it is.", operator_hint=f"`miner stop {name}` ends the load.",
            )  # fmt: skip
        with context.gateway.only_loads(context):
            await keep(service, name, keep_alive)
    body = {
        "model": request.model,
        "created_at": timestamp(),
        **text_fields(kind, "", None),
        "done": True,
        "done_reason": "unload" if unload else "load",
    }
    return json_response(context, msgspec.json.encode(body))


async def others_wait(service: LLMService, model: str) -> bool:
    """Whether requests wait until the model is loaded: they would end with an error if it were unloaded."""
    states = await service.model_states()
    found = next((state for state in states if model in (state.name, *state.aliases)), None)
    return found is not None and found.state != "ready" and found.queued > 0


async def keep(service: LLMService, model: str, keep_alive: float | str) -> None:
    """Keep a model loaded for a time after now: seconds, or a text such as "5m"; unload it with 0."""
    if seconds_of(keep_alive) == 0:
        await service.unload_model(model)
    else:
        await service.load_model(model, keep_alive=keep_alive)
