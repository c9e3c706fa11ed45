"""Rewrites of a conversation for a chat template with restrictions.

Chat templates are programs of the models' authors: one takes a system message only at the beginning and refuses others,
another drops it silently; some insist that user and assistant alternate. Each such restriction has a name here, a check
whether a conversation violates it, and an equivalent rewrite. Which restrictions a template has, its server is probed
for (`chat_template`).

Text never moves to the front, which would invalidate the KV cache of everything behind it; no text is left out, and
none is invented.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable
from typing import Final

from msgspec.structs import replace

from miner.core.llms.contract.tools import arguments_parse, with_object_arguments
from miner.core.wire import ImagePart, Message, TextPart, ToolCall

_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
_GAP = "\n\n"


def join_text_parts(messages: list[Message]) -> list[Message]:
    """The same with the content of each message without images as one string: some templates keep only the first part
    of a list. Returns the list itself if nothing changes.
    """
    if not any(isinstance(message.content, list) for message in messages):
        return messages
    joined = []
    for message in messages:
        if isinstance(message.content, list):
            texts = [part.text for part in message.content if isinstance(part, TextPart)]
            if len(texts) == len(message.content):
                # As llama.cpp joins them for a template that takes only strings.
                message = replace(message, content="\n".join(texts))
        joined.append(message)
    return joined


def violations(messages: list[Message]) -> set[str]:
    """The restrictions that this conversation violates where a template has them."""
    found: set[str] = set()
    roles: set[str] = set()
    last: str | None = None
    known_ids: set[str | None] = set()
    pending = 0  # tool calls without a result so far
    for message in messages:
        role = message.role
        if role == "system":
            found.add("system" if last is None else "later_system" if roles else "leading_systems")
            last = role
            continue
        if message.reasoning:
            found.add("reasoning")
        if role == last and role != "tool":
            found.add("same_role")
        elif role == "assistant" and not roles:
            found.add("assistant_first")
        if role == "tool":
            pending -= 1
            if message.tool_call_id not in known_ids:
                found.add("orphan_results")
        else:
            if role == "user":
                if last == "tool":
                    found.add("user_after_result")
                elif pending > 0:
                    found.add("unanswered_call")
            pending = 0
        if message.tool_calls:
            pending = len(message.tool_calls)
            known_ids.update(call.get("id") for call in message.tool_calls)
            found.add("calls")
            if not all(map(arguments_parse, message.tool_calls)):
                found.add("broken_arguments")
            if message.content:
                found.add("text_beside_calls")
            if pending > 1:
                found.add("calls_in_one_message")
            if not all(_SHORT_ID.fullmatch(call.get("id") or "") for call in message.tool_calls):
                found.add("call_ids")
        roles.add(role)
        last = role
    if "user" not in roles:
        # A last assistant message is continued by the reply: the template sees only what is before it.
        seen = messages[:-1] if last == "assistant" else messages
        if not seen:
            found.add("no_messages")
        elif all(message.role == "system" for message in seen):
            found.add("only_system")
    return found


def rewrite(messages: list[Message], restrictions: Collection[str]) -> list[Message]:
    """The conversation without violations of these restrictions."""
    for name, apply in _REWRITES.items():
        if name in restrictions:
            messages = apply(messages)
    return messages


def _without_reasoning(messages: list[Message]) -> list[Message]:
    """A template that drops the text beside the reasoning gets the text alone."""
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


def _short_id(id: str) -> str:
    return id if _SHORT_ID.fullmatch(id) else hashlib.sha256(id.encode()).hexdigest()[:9]


def _object_arguments(messages: list[Message]) -> list[Message]:
    """Arguments that are no JSON object as the value of one."""
    return [
        replace(message, tool_calls=with_object_arguments(message.tool_calls)) if message.tool_calls else message
        for message in messages
    ]


def _orphans_as_users(messages: list[Message]) -> list[Message]:
    """A result whose call is missing (the conversation was truncated) becomes a user message."""
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
    """Text and calls each in a message of its own."""
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
    """The number of system messages at the beginning."""
    return next((place for place, message in enumerate(messages) if message.role != "system"), len(messages))


def _later_inside(messages: list[Message]) -> list[Message]:
    """Later system messages become part of the next user message, or a user message before an assistant's."""
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
    """Leading system messages become part of the first user message, or a user message before an assistant's."""
    count = _leading(messages)
    leading, rest = [_as_user(message) for message in messages[:count]], messages[count:]
    if leading and rest and rest[0].role == "user":
        return [_joined([*leading, rest[0]]), *rest[1:]]
    return [_joined(leading), *rest] if leading else rest


def _as_user(message: Message) -> Message:
    return Message(role="user", content=message.content)


def _user_after_systems(messages: list[Message]) -> list[Message]:
    """An empty user message, for a template that requires one."""
    count = _leading(messages)
    return [*messages[:count], Message(role="user", content=""), *messages[count:]]


def _assistant_between(messages: list[Message]) -> list[Message]:
    """An empty assistant message before a user message that follows a result or a call."""
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
    """User and assistant messages are joined with neighbours of the same role."""
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
    """One message with the content, reasoning and tool calls of all."""
    if len(messages) == 1:
        return messages[0]
    calls: list[ToolCall] = [call for message in messages for call in message.tool_calls or ()]
    reasoning = [message.reasoning for message in messages if message.reasoning]
    return Message(
        role=messages[0].role,
        content=_content(messages),
        reasoning=_GAP.join(reasoning) or None,
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


_REWRITES: Final[dict[str, Callable[[list[Message]], list[Message]]]] = {
    "reasoning": _without_reasoning,
    "broken_arguments": _object_arguments,
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
"""Rewrites in the order in which they are applied."""

RESTRICTIONS: Final = tuple(_REWRITES)
"""The restrictions that have a rewrite."""
