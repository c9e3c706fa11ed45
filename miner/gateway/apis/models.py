"""`/v1/models`, which OpenAI's and Anthropic's APIs both have: in the form of the client that asks, errors too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from miner.gateway.apis.anthropic import models as anthropic
from miner.gateway.apis.anthropic.errors import ID_HEADER, anthropic_error
from miner.gateway.apis.openai import models as openai
from miner.gateway.apis.openai.errors import openai_error
from miner.gateway.context import Handler, Route


def _for_anthropic(route: Route, handler: Handler) -> Callable[[Mapping[str, str]], Route | None]:
    other = replace(route, handler=handler, errors=anthropic_error, id_header=ID_HEADER)
    return lambda headers: other if anthropic.is_anthropic(headers) else None


_LIST = Route("GET", "/v1/models", openai.models, "key", openai_error, "List models, the default first")
_ONE = Route("GET", "/v1/models/{model:.+}", openai.one_model, "key", openai_error, "Retrieve a model")
MODELS = [
    replace(_LIST, for_headers=_for_anthropic(_LIST, anthropic.models)),
    replace(_ONE, for_headers=_for_anthropic(_ONE, anthropic.one_model)),
]
