"""Stored responses and their items, found for a client: only what it has stored itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from miner.errors import InvalidRequestError
from miner.gateway.apis.openai.responses.schema import ResponseRequest
from miner.gateway.context import RequestContext
from miner.gateway.errors import RefusedError
from miner.gateway.request_body import off_loop
from miner.gateway.store.responses import ResponseStore, StoredResponse

_ITEM_ID = re.compile(r"[a-z]+_([0-9a-f]{32})[0-9a-f]{4}")
_OFF = "Nothing is stored on this server (MINER_SERVE_STORE is false)."


def store_of(context: RequestContext) -> ResponseStore:
    """The store.

    Raises:
        RefusedError: 404, nothing is stored here.
    """
    store = context.gateway.responses
    if store is None:
        raise RefusedError(404, "not_found", _OFF)
    return store


async def found(context: RequestContext, response_id: str) -> StoredResponse:
    """The response with this id.

    Raises:
        RefusedError: 404, this client has stored none.
    """
    store, owner = store_of(context), context.caller.partition
    stored = await store.find(owner, response_id)
    if stored is not None and not stored.finished and (owner, response_id) not in context.gateway.runs:
        # It ended after it was read, another process generates it, or its end could not be stored.
        stored = await store.find(owner, response_id)
        if stored is not None and not stored.finished and stored.instance == await store.instance():
            stored.fail("The response could not be stored.")
    if stored is None:
        raise not_found(response_id)
    return stored


def not_found(response_id: str) -> RefusedError:
    """The error of an id that this client has not stored."""
    return RefusedError(404, "not_found", f"Response with id {response_id[:100]!r} not found.")


async def earlier_items(context: RequestContext, request: ResponseRequest) -> list[dict[str, Any]]:
    """The items of the conversation that `previous_response_id` names. References in the input are replaced by their
    items.

    Raises:
        RequestError, RefusedError: something that is named is not stored.
    """
    store, owner = context.gateway.responses, context.caller.partition
    earlier: list[dict[str, Any]] = []
    if request.previous_response_id is not None:
        if store is None:
            raise InvalidRequestError(_OFF, param="previous_response_id", hint="Send the entire conversation as input.")
        chain = await store.chain(owner, request.previous_response_id, context.gateway.settings.serve_max_body)
        if not chain[-1].finished:
            raise InvalidRequestError(
                f"Response {request.previous_response_id!r} is not complete yet.", param="previous_response_id",
                hint="Wait until its status is completed.",
            )  # fmt: skip
        earlier = await conversation(context, chain)
    if isinstance(request.input, list):
        await _follow_references(context, request.input)
    return earlier


async def conversation(context: RequestContext, chain: Sequence[StoredResponse]) -> list[dict[str, Any]]:
    """What these responses add to a conversation: the input and the output of each.

    Raises:
        RefusedError: 503, there is no room for it.
    """
    context.count_stored(sum(len(stored.response) + len(stored.input) for stored in chain))

    def items() -> list[dict[str, Any]]:
        return [item for one in chain for item in (*one.input_items(), *one.object().get("output", ()))]

    return await off_loop(context, items)


def is_reference(item: dict[str, Any]) -> bool:
    """Whether an item stands for one that is stored; the type may be left out."""
    return item.get("type") == "item_reference" or (item.keys() == {"id"})


async def _follow_references(context: RequestContext, items: list[dict[str, Any]]) -> None:
    known: dict[str, dict[str, Any]] = {}
    for place, item in enumerate(items):
        if not is_reference(item):
            continue
        name = item.get("id")
        if not isinstance(name, str):
            raise InvalidRequestError(f"input[{place}].id must be a string.", param=f"input[{place}].id")
        if name not in known:
            known.update(await _items_beside(context, name))
        if name not in known:
            hint = "Send the item itself." if context.gateway.responses is not None else f"{_OFF} Send the item itself."
            raise RefusedError(
                404, "not_found", f"Item with id {name[:100]!r} not found. Items are stored with responses whose "
                f"`store` is true.", param=f"input[{place}].id", hint=hint,
            )  # fmt: skip
        items[place] = known[name]


async def _items_beside(context: RequestContext, name: str) -> dict[str, dict[str, Any]]:
    """The items of the response that an item's id belongs to, by their ids."""
    match = _ITEM_ID.fullmatch(name)
    if match is None or context.gateway.responses is None:
        return {}
    stored = await context.gateway.responses.find(context.caller.partition, f"resp_{match.group(1)}")
    items = [] if stored is None else await conversation(context, [stored])
    return {item["id"]: item for item in items if isinstance(item.get("id"), str)}
