"""A request to the pool as the service of its model gets it."""

from __future__ import annotations

import json
from typing import Any

from msgspec.structs import replace

from miner.core.llms.contract.capabilities import IGNORABLE
from miner.core.llms.contract.preset import apply_preset
from miner.core.llms.LLMService import LLMService
from miner.core.llms.pool.table import ServedModel
from miner.core.wire import ChatRequest, Resolution


def request_for(served: ServedModel, request: ChatRequest, service: LLMService) -> ChatRequest:
    """The request under the model's name at its service, with what the file says of the model, and a resolution of its
    own.
    """
    if served.preset is not None:
        request = apply_preset(request, served.preset)
    changes: dict[str, Any] = {"model": served.upstream, "resolution": Resolution()}
    model = served.model
    if request.keep_alive is None and model.keep_alive is not None and "keep_alive" in service.capabilities:
        changes["keep_alive"] = model.keep_alive
    if "ignore_unsupported" in request.defaulted and (model.skip or model.refuse or model.unsupported):
        names = IGNORABLE if model.unsupported == "skip" else frozenset()
        changes["ignore_unsupported"] = (names | frozenset(model.skip)) - frozenset(model.refuse)
    return replace(request, **changes)


def native_body(served: ServedModel, body: dict[str, Any]) -> dict[str, Any]:
    """The body of a generation in llama.cpp's own form, with the model's parameters where it does not set them."""
    if served.preset is None:
        return body
    given = {"n_predict" if name == "max_tokens" else name: value for name, value in served.preset.parameters.items()}
    if "max_tokens" in body:
        given.pop("n_predict", None)
    return {**given, **body}


def native_response(served: ServedModel, raw: bytes) -> bytes:
    """The response of an engine in its own form, with the model's name where it has that of another one, with which it
    shares the engine. A text cannot hold what is replaced here: quotes are escaped in it.
    """
    alias = served.holder.plan.alias
    if alias is None or alias == served.name:
        return raw
    old, new = (json.dumps(name, ensure_ascii=False).encode() for name in (alias, served.name))
    for key in (b'"model":', b'"model_alias":'):
        raw = raw.replace(key + old, key + new)
    return raw
