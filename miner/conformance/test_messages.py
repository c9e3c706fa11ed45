"""Messages as real clients send them: responses returned unchanged, with all their empty fields."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from miner.conformance.contract import Contract
from miner.errors import RequestError

HELLO = {"role": "user", "content": "Hello."}
AGAIN = {"role": "user", "content": "And now?"}
EMPTY_FIELDS: dict[str, Any] = {
    "refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": None,
}  # fmt: skip
TOOL = {"type": "function", "function": {"name": "now", "description": None, "parameters": None}}


def call(arguments: object, **more: object) -> list[dict[str, Any]]:
    """A conversation in which a tool was called."""
    called = {"id": "call_00001", "function": {"name": "now", "arguments": arguments}, **more}
    return [
        HELLO,
        {"role": "assistant", "content": None, **EMPTY_FIELDS, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "call_00001", "content": "noon"},
        AGAIN,
    ]


CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "a reply as OpenAI sends it": [HELLO, {"role": "assistant", "content": "Hello.", **EMPTY_FIELDS}, AGAIN],
    "no calls": [HELLO, {"role": "assistant", "content": "Hello.", "tool_calls": []}, AGAIN],
    "null content": [HELLO, {"role": "assistant", "content": None}, AGAIN],
    "empty content": [HELLO, {"role": "assistant", "content": ""}, AGAIN],
    "content in parts": [
        HELLO, {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]}, AGAIN
    ],
    "role developer": [{"role": "developer", "content": "Be short."}, HELLO],
}  # fmt: skip
CALLS: dict[str, list[dict[str, Any]]] = {
    "a call without type": call("{}"),
    "a call with type null": call("{}", type=None),
    "arguments as empty text": call("", type="function"),
    "arguments as null": call(None, type="function"),
    "arguments as an object": call({"zone": "UTC"}, type="function"),
}
TOOLS: dict[str, dict[str, Any]] = {
    "no tools": {"tools": []},
    "no tools, choice auto": {"tools": [], "tool_choice": "auto"},
    "choice auto alone": {"tool_choice": "auto"},
    "a tool without description": {"tools": [TOOL], "tool_choice": "none"},
}


@pytest.mark.miner_capability("chat")
@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_messages_of_real_clients_are_accepted(contract: Contract, messages: list[dict[str, Any]]) -> None:
    """Empty fields are accepted."""
    contract.chat_messages(messages, max_tokens=2)


@pytest.mark.miner_capability("tools")
@pytest.mark.parametrize("messages", CALLS.values(), ids=CALLS)
def test_calls_of_real_clients_are_accepted(
    contract: Contract, request: pytest.FixtureRequest, messages: list[dict[str, Any]]
) -> None:
    """Tool calls in earlier messages. A backend without tools may refuse them as an invalid request."""
    if "tools" in contract.capabilities():
        contract.chat_messages(messages, max_tokens=2)
        return
    request.node.user_properties.append(("refused", True))
    with contextlib.suppress(RequestError):
        contract.chat_messages(messages, max_tokens=2)


@pytest.mark.miner_capability("chat")
@pytest.mark.parametrize("options", TOOLS.values(), ids=TOOLS)
def test_empty_tools_are_accepted(contract: Contract, options: dict[str, Any]) -> None:
    """Without tools, or with tool_choice none: needs no capability."""
    response = contract.chat_messages([HELLO], max_tokens=2, **options)
    assert response.tool_calls is None
