"""`/v1/models`, which OpenAI's and Anthropic's APIs both have: in the form of the client that asks."""

from __future__ import annotations

from dataclasses import replace

from aiohttp import web

from miner.gateway.apis.anthropic import models as anthropic
from miner.gateway.apis.anthropic.errors import ID_HEADER, anthropic_error
from miner.gateway.apis.openai import models as openai
from miner.gateway.apis.openai.errors import openai_error
from miner.gateway.context import RequestContext, Route


async def models(context: RequestContext) -> web.StreamResponse:
    """List models, the default first."""
    return await (anthropic.models if _for_anthropic(context) else openai.models)(context)


async def one_model(context: RequestContext) -> web.StreamResponse:
    """Describe one of them."""
    return await (anthropic.one_model if _for_anthropic(context) else openai.one_model)(context)


def _for_anthropic(context: RequestContext) -> bool:
    if not anthropic.is_anthropic(context):
        return False
    context.route = replace(context.route, errors=anthropic_error, id_header=ID_HEADER)
    return True


MODELS = [
    Route("GET", "/v1/models", models, "key", openai_error, "List models, the default first"),
    Route("GET", "/v1/models/{model:.+}", one_model, "key", openai_error, "Retrieve a model"),
]
