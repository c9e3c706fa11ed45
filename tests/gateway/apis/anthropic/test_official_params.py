"""A request with each type of block and tool that the official types have, built from these types."""

from __future__ import annotations

import collections.abc
import types
import typing
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import typing_extensions
from anthropic.types import beta
from pydantic import BaseModel

from tests.gateway.apis.anthropic.client import USER
from tests.gateway.serving import post, serving, vllm
from tests.servers.openai_stub import StubServer

_REQUIRED = (typing.Required, typing_extensions.Required)


def least(kind: Any) -> Any:
    """The smallest value of a type."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return least(parts[0])
    if origin in (*_REQUIRED, typing.Annotated):
        return least(parts[0])
    if origin is Literal:
        return parts[0]
    if origin in (list, collections.abc.Iterable, collections.abc.Sequence) or "Sequence" in str(origin):
        return [least(parts[0])]
    if origin in (dict, collections.abc.Mapping) or kind is object:
        return {}
    if kind in (str, int, bool, float):
        return {str: "x", int: 1, bool: False, float: 1.0}[kind]
    if typing_extensions.is_typeddict(kind):
        hints = get_type_hints(kind, include_extras=True)  # `__required_keys__` is empty: the annotations are texts
        return {name: least(hint) for name, hint in hints.items() if get_origin(hint) in _REQUIRED or kind.__total__}
    raise AssertionError(kind)


def members(union: Any) -> list[Any]:
    found = []
    for part in get_args(union):
        if get_origin(part) in (Union, types.UnionType, typing.Annotated):
            found += members(part)
        elif not (isinstance(part, type) and issubclass(part, BaseModel)):
            found.append(part)
    return [part for part in found if typing_extensions.is_typeddict(part)]


BLOCKS = members(beta.BetaContentBlockParam)
TOOLS = members(beta.BetaToolUnionParam)
ONLY_OF_A_USER = {"image", "document", "search_result", "tool_result"}
ONLY_OF_THE_MODEL = {"thinking", "redacted_thinking", "tool_use"}


async def status_of(served, body, policy="default"):
    body = {"model": "m", "max_tokens": 9, "messages": USER, **body}
    async with post(served, body, "/v1/messages?beta=true", headers={"X-Miner-Unsupported": policy}) as response:
        return response.status, await response.text()


def test_the_types_are_found():
    assert len(BLOCKS) > 20
    assert len(TOOLS) > 20


@pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: kind.__name__)
async def test_a_block(kind):
    block = least(kind)
    async with StubServer() as engine, serving(vllm(engine)) as served:
        for role in ("user", "assistant", "system"):
            text = {"type": "text", "text": "a"}
            messages = [*USER, {"role": role, "content": [text, block]}, *USER]
            allowed = block["type"] not in (ONLY_OF_A_USER if role == "assistant" else ONLY_OF_THE_MODEL)
            if role == "system":
                allowed = allowed and block["type"] != "tool_result"
            for policy in ("default", "skip"):
                status, said = await status_of(served, {"messages": messages}, policy)
                if status == 200:
                    continue
                # A block that is nowhere supported is left out; one at a wrong place, or with a wrong value, is not.
                assert status == 400
                assert "messages[1].content[1]" in said
                wrong = not allowed or block["type"] == "image"
                assert wrong or policy == "default", said


@pytest.mark.parametrize("kind", TOOLS, ids=lambda kind: kind.__name__)
async def test_a_tool(kind):
    async with StubServer() as engine, serving(vllm(engine)) as served:
        status, said = await status_of(served, {"tools": [least(kind)]})
    assert status == 200, said


@pytest.mark.parametrize(
    "fields",
    [
        {"thinking": {"type": "between_tools"}},
        {"thinking": {"type": "adaptive", "display": "updates", "block_binding": {"type": "x"}}},
        {"output_config": {"effort": "xhigh", "task_budget": {"type": "tokens", "total": 9}}},
        {"messages": [*USER, {"role": "system", "output_config": {"effort": "low"}}, *USER]},
        {"messages": [*USER, {"role": "system", "content": "x", "clear_at": "next_user_message"}, *USER]},
        {"system": [{"type": "text", "text": "x", "citations": None}]},
        {"metadata": {"user_id": None}},
        {"billing_policy": {"type": "x"}},
    ],
)
async def test_other_fields(fields):
    async with StubServer() as engine, serving(vllm(engine)) as served:
        status, said = await status_of(served, fields)
    assert status == 200, said
