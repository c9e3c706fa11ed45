"""Conversations in the form that a chat template takes.

Templates are programs of the models' makers: one takes a system message only at the beginning and refuses the rest,
another drops it silently; some insist that user and assistant alternate. Each such limit has a name here, a test
whether a conversation meets it, and the change that says the same within it. Which limits a template has, its engine
is asked (`llamacpp_template`).

Text never moves to the front, where it would cost the KV cache of everything behind it; no text is left out, and none
is invented.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable
from typing import Final

from msgspec.structs import replace

from miner.core.wire import ImagePart, Message, TextPart, ToolCall

__all__ = ["ADAPTABLE", "adapted", "flattened", "limits_met"]

ADAPTABLE: Final = (
    "reasoning", "call_ids", "orphan_results", "calls_in_one_message", "text_beside_calls", "only_system",
    "no_messages", "leading_systems", "later_system", "system", "user_after_result", "unanswered_call",
    "assistant_first", "same_role",
)  # fmt: skip
"""The limits that a change of the conversation meets, in the order in which they are met."""

_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
_GAP = "\n\n"


def flattened(messages: list[Message]) -> list[Message]:
    """The same with the content of each message as one text, where it has no images: some templates keep only the
    first part of a list. The list itself if nothing is to be done.
    """
    if not any(isinstance(message.content, list) for message in messages):
        return messages
    return [_flat(message) for message in messages]


def _flat(message: Message) -> Message:
    parts = message.content
    if not isinstance(parts, list) or not all(isinstance(part, TextPart) for part in parts):
        return message
    # Joined as llama.cpp joins them for a template that takes only texts.
    return replace(message, content="\n".join(part.text for part in parts if isinstance(part, TextPart)))


def limits_met(messages: list[Message]) -> set[str]:
    """Limits that this conversation would break, if the template has them."""
    met: set[str] = set()
    roles: set[str] = set()
    last: str | None = None
    known_ids: set[str | None] = set()
    waiting = 0  # calls whose results have not come yet
    for message in messages:
        role = message.role
        if role == "system":
            met.add("system" if last is None else "later_system" if roles else "leading_systems")
            last = role
            continue
        if message.reasoning:
            met.add("reasoning")
        if role == last and role != "tool":
            met.add("same_role")
        elif role == "assistant" and not roles:
            met.add("assistant_first")
        if role == "tool":
            waiting -= 1
            if message.tool_call_id not in known_ids:
                met.add("orphan_results")
        else:
            if role == "user":
                if last == "tool":
                    met.add("user_after_result")
                elif waiting > 0:
                    met.add("unanswered_call")
            waiting = 0
        if message.tool_calls:
            waiting = len(message.tool_calls)
            known_ids.update(call.get("id") for call in message.tool_calls)
            met.add("calls")
            if message.content:
                met.add("text_beside_calls")
            if waiting > 1:
                met.add("calls_in_one_message")
            if not all(_SHORT_ID.fullmatch(call.get("id") or "") for call in message.tool_calls):
                met.add("call_ids")
        roles.add(role)
        last = role
    if "user" not in roles:
        # A last message of the assistant is continued: the template sees only what is before it.
        seen = messages[:-1] if last == "assistant" else messages
        if not seen:
            met.add("no_messages")
        elif all(message.role == "system" for message in seen):
            met.add("only_system")
    return met


def adapted(messages: list[Message], limits: Collection[str]) -> list[Message]:
    """The conversation within these limits."""
    for limit in ADAPTABLE:
        if limit in limits:
            messages = _CHANGES[limit](messages)
    return messages


def _without_reasoning(messages: list[Message]) -> list[Message]:
    """A template that loses the text beside the reasoning gets the text."""
    return [
        replace(message, reasoning=None, content=message.content or "") if message.reasoning else message
        for message in messages
    ]


def _short_ids(messages: list[Message]) -> list[Message]:
    """Ids of nine letters or digits: the same for the same id, in the call and its result, in every request."""
    out = []
    for message in messages:
        if message.tool_calls:
            calls = [{**call, "id": _short_id(call.get("id") or "")} for call in message.tool_calls]
            message = replace(message, tool_calls=calls)
        if message.tool_call_id:
            message = replace(message, tool_call_id=_short_id(message.tool_call_id))
        out.append(message)
    return out


def _short_id(given: str) -> str:
    return given if _SHORT_ID.fullmatch(given) else hashlib.sha256(given.encode()).hexdigest()[:9]


def _orphans_as_users(messages: list[Message]) -> list[Message]:
    """A result whose call is not there (an older part of the conversation was cut off) is told by the user."""
    out: list[Message] = []
    known: set[str | None] = set()
    for message in messages:
        known.update(call.get("id") for call in message.tool_calls or ())
        if message.role == "tool" and message.tool_call_id not in known:
            message = Message(role="user", content=message.content)
        out.append(message)
    return out


def _one_call_each(messages: list[Message]) -> list[Message]:
    """Each call in a message of its own, followed by its result."""
    out: list[Message] = []
    place = 0
    while place < len(messages):
        message = messages[place]
        place += 1
        calls = message.tool_calls or []
        if len(calls) < 2:
            out.append(message)
            continue
        results: list[Message] = []
        while place < len(messages) and messages[place].role == "tool":
            results.append(messages[place])
            place += 1
        for number, call in enumerate(calls):
            first = number == 0
            out.append(
                replace(
                    message,
                    content=message.content if first else None,
                    reasoning=message.reasoning if first else None,
                    tool_calls=[call],
                )
            )
            own = [result for result in results if result.tool_call_id == call.get("id")]
            out += own
            results = [result for result in results if all(result is not one for one in own)]
        out += results
    return out


def _text_before_calls(messages: list[Message]) -> list[Message]:
    """Text and calls each in a message of its own, where the template keeps only one of them."""
    out: list[Message] = []
    for message in messages:
        if message.tool_calls and message.content:
            out += [replace(message, tool_calls=None), replace(message, content=None, reasoning=None)]
        else:
            out.append(message)
    return out


def _leading_joined(messages: list[Message]) -> list[Message]:
    count = _leading(messages)
    if count < 2:
        return messages
    return [_joined(messages[:count]), *messages[count:]]


def _leading(messages: list[Message]) -> int:
    """How many system messages it begins with."""
    return next((place for place, message in enumerate(messages) if message.role != "system"), len(messages))


def _later_inside(messages: list[Message]) -> list[Message]:
    """Later system messages inside the next user message; as a user message of its own where an assistant's is next."""
    count = _leading(messages)
    out = messages[:count]
    held: list[Message] = []
    for message in messages[count:]:
        if message.role == "system":
            held.append(_as_user(message))
        elif not held or message.role == "tool":  # a call and its result stay together
            out.append(message)
        else:
            out += [_joined([*held, message])] if message.role == "user" else [_joined(held), message]
            held = []
    return [*out, _joined(held)] if held else out


def _system_as_user(messages: list[Message]) -> list[Message]:
    """No system role at all: into the first user message, where that comes next."""
    count = _leading(messages)
    told, rest = [_as_user(message) for message in messages[:count]], messages[count:]
    if told and rest and rest[0].role == "user":
        return [_joined([*told, rest[0]]), *rest[1:]]
    return [_joined(told), *rest] if told else rest


def _as_user(message: Message) -> Message:
    return Message(role="user", content=message.content)


def _user_after_systems(messages: list[Message]) -> list[Message]:
    """A template that wants a user's message gets an empty one."""
    count = _leading(messages)
    return [*messages[:count], Message(role="user", content=""), *messages[count:]]


def _assistant_between(messages: list[Message]) -> list[Message]:
    """An empty message of the assistant before a user's that follows a result or a call."""
    out: list[Message] = []
    for message in messages:
        if message.role == "user" and out and (out[-1].role == "tool" or out[-1].tool_calls):
            out.append(Message(role="assistant", content=""))
        out.append(message)
    return out


def _user_first(messages: list[Message]) -> list[Message]:
    count = _leading(messages)
    return messages if messages[count:] and messages[count].role != "assistant" else _user_after_systems(messages)


def _neighbours_joined(messages: list[Message]) -> list[Message]:
    """Users' and assistants' messages that follow one of the same role are one with it."""
    out: list[list[Message]] = []
    for message in messages:
        last = out[-1][-1] if out else None
        if (
            last is not None
            and message.role == last.role != "tool"
            and not (last.tool_calls and not message.tool_calls)
        ):
            out[-1].append(message)
        else:
            out.append([message])
    return [_joined(group) for group in out]


def _joined(messages: list[Message]) -> Message:
    """One message with everything that these have."""
    if len(messages) == 1:
        return messages[0]
    calls: list[ToolCall] = [call for message in messages for call in message.tool_calls or ()]
    thoughts = [message.reasoning for message in messages if message.reasoning]
    return Message(
        role=messages[0].role,
        content=_content(messages),
        reasoning=_GAP.join(thoughts) or None,
        tool_calls=calls or None,
    )


def _content(messages: Iterable[Message]) -> str | list[TextPart | ImagePart] | None:
    contents = [message.content for message in messages if message.content]
    if all(isinstance(content, str) for content in contents):
        return _GAP.join(content for content in contents if isinstance(content, str))
    parts: list[TextPart | ImagePart] = []
    for content in contents:
        parts += [TextPart(content)] if isinstance(content, str) else content
    return parts


_CHANGES: Final[dict[str, Callable[[list[Message]], list[Message]]]] = {
    "reasoning": _without_reasoning,
    "call_ids": _short_ids,
    "orphan_results": _orphans_as_users,
    "calls_in_one_message": _one_call_each,
    "text_beside_calls": _text_before_calls,
    "only_system": _user_after_systems,
    "no_messages": _user_after_systems,
    "leading_systems": _leading_joined,
    "later_system": _later_inside,
    "system": _system_as_user,
    "user_after_result": _assistant_between,
    "unanswered_call": _assistant_between,
    "assistant_first": _user_first,
    "same_role": _neighbours_joined,
}
