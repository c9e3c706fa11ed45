"""The body of a request that generates nothing."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from miner.gateway.context import RequestContext
from miner.gateway.dialect import Call
from miner.gateway.request_body import decode_body

T = TypeVar("T")


async def read_body(context: RequestContext, decoder: msgspec.json.Decoder[T], *unread: str) -> T:
    """Return the body; fields that it does not know are skipped or refused, by the policy.

    Args:
        unread: fields that have no effect here: they are listed where they are set.
    """
    foreign: dict[str, Any] = {}
    request = await decode_body(context, decoder, foreign)
    fields = getattr(request, "__struct_fields__", ())
    ignored = [name for name in unread if getattr(request, name)]
    context.apply_policy(Call(arguments=[], ignored=ignored, foreign=foreign, fields=fields))
    return request
