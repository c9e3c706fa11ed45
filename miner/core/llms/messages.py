"""Conversations: checked on the way in, so that no engine drops a turn without a word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from miner.core.wire import Message
from miner.errors import InvalidRequestError

__all__ = ["as_prompt", "checked_messages"]

ROLES = ("system", "user", "assistant", "tool")


def checked_messages(messages: Any) -> list[Message]:
    """Messages as typed turns, from dicts in OpenAI's form.

    Raises:
        InvalidRequestError: names the message at fault by its place.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence) or not messages:
        raise InvalidRequestError(
            "messages must be a list of at least one message, such as "
            '[{"role": "user", "content": "Hello"}].', param="messages"
        )  # fmt: skip
    return [_checked_message(message, place) for place, message in enumerate(messages)]


def _checked_message(message: Any, place: int) -> Message:
    where = f"messages[{place}]"
    if isinstance(message, Message):
        message = msgspec.to_builtins(message)  # a struct does not check what it is made of
    if not isinstance(message, Mapping):
        raise InvalidRequestError(f"{where} must be a mapping with role and content.", param="messages")
    role = message.get("role")
    if role not in ROLES:
        raise InvalidRequestError(
            f"{where}.role must be one of {', '.join(ROLES)}, not {role!r}.", param=f"{where}.role"
        )
    # Absent and None are the same; clients that send a reply back include its null fields.
    given = {name: value for name, value in message.items() if value is not None}
    if "reasoning_content" in given:
        given.setdefault("reasoning", given["reasoning_content"])
        del given["reasoning_content"]
    try:
        checked = msgspec.convert(given, Message)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"{where} is not valid: {error}.", param=where) from None
    if checked.content is None and not (role == "assistant" and (checked.tool_calls or checked.reasoning)):
        raise InvalidRequestError(f"{where}.content is missing.", param=f"{where}.content")
    if role == "tool" and not checked.tool_call_id:
        raise InvalidRequestError(
            f"{where}.tool_call_id is missing: a tool's turn names the call that it answers.",
            param=f"{where}.tool_call_id",
        )
    if checked.tool_calls is not None and role != "assistant":
        raise InvalidRequestError(f"{where}.tool_calls belongs to an assistant's turn.", param=f"{where}.tool_calls")
    for number, call in enumerate(checked.tool_calls or ()):
        _check_call(call, f"{where}.tool_calls[{number}]")
    return checked


def _check_call(call: Mapping[str, Any], where: str) -> None:
    """A call that is sent back must be whole: engines' templates read its arguments as JSON."""
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise InvalidRequestError(f"{where}.function.name is missing.", param=where)
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        raise InvalidRequestError(f"{where}.function.arguments must be JSON text.", param=where)
    try:
        value = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequestError(f"{where}.function.arguments is not JSON: {error}.", param=where) from None
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{where}.function.arguments must be a JSON object.", param=where)


def as_prompt(messages: Sequence[Message]) -> str:
    """One prompt for a backend that knows only prompts: a single user turn is its text unchanged; several turns are
    `role: text` lines that end in `assistant:`.
    """
    if len(messages) == 1 and messages[0].role == "user":
        return messages[0].text()
    return "\n".join([*(f"{message.role}: {message.text()}" for message in messages), "assistant:"])
