"""The restrictions of the chat template of one running llama.cpp server, found by probing the server.

A restriction is probed for the first conversation that would violate it: a conversation of that kind, with marker
words, is sent to `/apply-template`, which generates no token. If the server refuses it, or the prompt lacks one of the
words, has them in another order or runs two of them together, the template has the restriction: a message that is
dropped silently is as bad as one that is refused, and one that moves to the front invalidates the KV cache.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from miner.core.llms.llamacpp.emulated_tools import calls_as_text, tools_as_text
from miner.core.llms.llamacpp.message_rewrites import RESTRICTIONS, join_text_parts, rewrite, violations
from miner.core.wire import ChatRequest, Message
from miner.errors import InvalidRequestError, UnsupportedFeatureError

ApplyTemplate = Callable[[dict[str, Any]], Awaitable["tuple[int, str]"]]
"""Posts to `/apply-template`; returns the status, and the prompt or the error's message."""


class TemplateInput(msgspec.Struct):
    """A request's conversation in the form that is sent."""

    messages: list[Message]
    emulates_tools: bool = False
    """Whether tool calls are parsed from the reply's text."""
    tools_in_prompt: bool = False
    """Whether the tools are described in the messages, and not sent as `tools`."""


class ChatTemplate:
    """The chat template of one running server.

    Args:
        apply: the server's `/apply-template`.
        can_probe: the server is llama.cpp's own; any other gets the messages unchanged until it refuses them.
        has_tools: the template describes the tools to the model (`chat_template_caps`).
        has_system_role: it has a system role.
    """

    def __init__(
        self, apply: ApplyTemplate, *, can_probe: bool = True, has_tools: bool = True, has_system_role: bool = True
    ) -> None:
        self._apply = apply
        self._can_probe = can_probe
        # Without a system role, llama.cpp puts a system message into the first message.
        self._restrictions: dict[str, bool] = {} if has_system_role else {"system": True}
        self._has_tools = has_tools
        self._refused: set[frozenset[str]] = set()
        self._refused_tools: set[bytes] = set()

    async def prepare(self, request: ChatRequest, *, constrained: bool) -> TemplateInput:
        """The conversation of a request in the form that the template takes.

        Args:
            constrained: the reply must follow a JSON schema, or be a tool call.

        Raises:
            UnsupportedFeatureError: llama.cpp cannot constrain replies in the template's format.
        """
        if constrained and await self._has("schema"):
            param = "response_format" if request.tools is None or request.response_format else "tool_choice"
            raise UnsupportedFeatureError(
                f"llamacpp's model {request.model!r} does not support {param}: llama.cpp enforces no JSON schema in "
                "the format of its chat template.",
                param=param,
                hint=f"Leave {param} out.",
                operator_hint="Use another chat template (LLAMACPP_CHAT_TEMPLATE).",
            )
        messages = join_text_parts(request.as_messages())
        tools = request.tools if request.tool_choice != "none" else None
        violated = violations(messages)
        if not violated and tools is None:
            return TemplateInput(messages)  # a single user message
        emulate = tools is not None and (not self._has_tools or self._refuses(tools))
        return await self._rewritten(messages, violated, tools, emulate=emulate)

    async def _rewritten(
        self, messages: list[Message], violated: set[str], tools: list[dict[str, Any]] | None, *, emulate: bool
    ) -> TemplateInput:
        in_prompt = tools if emulate else None
        if emulate or ("calls" in violated and await self._has("calls")):
            messages, emulate = calls_as_text(messages), tools is not None
            if in_prompt is not None:
                messages = tools_as_text(messages, in_prompt)
            violated = violations(messages)
        if self._refused and frozenset(violated) in self._refused:
            return TemplateInput(rewrite(messages, RESTRICTIONS), emulate, in_prompt is not None)
        original = messages
        found: set[str] = set()
        while True:
            unknown = [name for name in RESTRICTIONS if name in violated and name not in found]
            more = [name for name in unknown if await self._has(name)]
            if not more:
                return TemplateInput(messages, emulate, in_prompt is not None)
            found.update(more)
            messages = rewrite(original, found)
            violated = violations(messages)

    async def after_refusal(
        self, request: ChatRequest, refused: TemplateInput, body: dict[str, Any], reason: str
    ) -> TemplateInput:
        """Another form of a conversation that was refused although it violates no known restriction.

        Raises:
            InvalidRequestError: no form is accepted; names the message, and the template's reason.
        """
        strict = rewrite(refused.messages, RESTRICTIONS)
        if strict != refused.messages and (await self._apply(_with(body, strict)))[0] in (200, *_NOT_SUPPORTED):
            self._refused.add(frozenset(violations(refused.messages)))
            return TemplateInput(strict, refused.emulates_tools, refused.tools_in_prompt)
        if "tools" in body and (await self._apply(_with(body, _HELLO)))[0] != 200:
            # The template cannot render one of their schemas (a type that is a list, a property without one).
            if len(self._refused_tools) >= _MAX_REFUSED_TOOLS:
                self._refused_tools.clear()
            self._refused_tools.add(msgspec.json.encode(body["tools"]))
            messages = join_text_parts(request.as_messages())
            return await self._rewritten(messages, violations(messages), request.tools, emulate=True)
        raise await _refusal_error(request, body, reason, self._apply)

    def _refuses(self, tools: list[dict[str, Any]]) -> bool:
        return bool(self._refused_tools) and msgspec.json.encode(tools) in self._refused_tools

    async def _has(self, restriction: str) -> bool:
        known = self._restrictions.get(restriction)
        if known is None and not self._can_probe:
            return False
        if known is None:
            known = self._restrictions[restriction] = await _probe(restriction, self._apply)
        return known


_MAX_REFUSED_TOOLS = 100
"""Sets of tools that are remembered; each saves a refused request."""
_NOT_SUPPORTED = (404, 405, 501)


async def _probe(restriction: str, apply: ApplyTemplate) -> bool:
    body, words = _PROBES[restriction]
    status, text = await apply(body)
    if status in _NOT_SUPPORTED:
        return False
    if restriction == "schema":
        return status == 200  # an invalid schema was accepted: it is not read
    if status != 200:
        return True
    end = 0
    for word in words:
        place = text.find(word, end)
        if place < 0 or place == end > 0:  # missing, moved, or run into the one before
            return True
        end = place + len(word)
    return False


_WORDS = re.compile(r"zq[a-z]+")


def _conversation(*messages: dict[str, Any], tools: bool = False) -> tuple[dict[str, Any], list[str]]:
    body: dict[str, Any] = {"messages": list(messages)}
    if tools:
        body["tools"] = [_TOOL]
    return body, _WORDS.findall(msgspec.json.encode(list(messages)).decode())


def _calls(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [
        {"id": name, "type": "function", "function": {"name": "lookup", "arguments": f'{{"key": "{word}"}}'}}
        for name, word in pairs
    ]


_TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "lookup",
        "description": "Look up a key",
        "parameters": {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]},
    },
}
_S1, _S2 = ({"role": "system", "content": word} for word in ("zqsystemone", "zqsystemtwo"))
_U1, _U2 = ({"role": "user", "content": word} for word in ("zquserone", "zqusertwo"))
_A1, _A2 = ({"role": "assistant", "content": word} for word in ("zqassistantone", "zqassistanttwo"))
_CALL = {"role": "assistant", "content": None, "tool_calls": _calls(("abcdefgh1", "zqcallone"))}
_BROKEN = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "abcdefgh1", "type": "function", "function": {"name": "lookup", "arguments": "{zqcallone"}}],
}
_CALLS = {
    "role": "assistant",
    "content": None,
    "tool_calls": _calls(("abcdefgh1", "zqcallone"), ("abcdefgh2", "zqcalltwo")),
}
_LONG = {"role": "assistant", "content": None, "tool_calls": _calls(("call_abcdefghijklmnop", "zqcallone"))}
_R1 = {"role": "tool", "content": "zqresultone", "tool_call_id": "abcdefgh1"}
_R2 = {"role": "tool", "content": "zqresulttwo", "tool_call_id": "abcdefgh2"}
_RL = {"role": "tool", "content": "zqresultone", "tool_call_id": "call_abcdefghijklmnop"}

_PROBES: Final[dict[str, tuple[dict[str, Any], list[str]]]] = {
    "system": _conversation(_S1, _U1),
    "leading_systems": _conversation(_S1, _S2, _U1),
    "later_system": _conversation(_S1, _U1, _A1, _S2, _U2),
    "only_system": _conversation(_S1),
    "no_messages": _conversation(_A1),
    "reasoning": _conversation(_U1, {**_A1, "reasoning_content": "Hm."}, _U2),
    "assistant_first": _conversation(_S1, _A1, _U1),
    "same_role": _conversation(_U1, _U2, _A1, _A2, {"role": "user", "content": "zqend"}),
    "calls": _conversation(_U1, _CALL, _R1, _A1, _U2, tools=True),
    "text_beside_calls": _conversation(_U1, {**_CALL, "content": "zqassistantone"}, _R1, _A2, _U2, tools=True),
    "calls_in_one_message": _conversation(_U1, _CALLS, _R1, _R2, _A1, _U2, tools=True),
    "broken_arguments": _conversation(_U1, _BROKEN, _R1, _A1, _U2, tools=True),
    "call_ids": _conversation(_U1, _LONG, _RL, _A1, _U2, tools=True),
    "user_after_result": _conversation(_U1, _CALL, _R1, _U2, tools=True),
    "unanswered_call": _conversation(_U1, _CALL, _U2, tools=True),
    "orphan_results": _conversation(_U1, _A1, _R1, _A2, _U2, tools=True),
    "schema": (
        {
            "messages": [_U1],
            "response_format": {"type": "json_schema", "json_schema": {"name": "none", "schema": {"type": "none"}}},
        },
        [],
    ),
}

_REASON = re.compile(r"Error: (?:Jinja Exception: )?(.+)", re.DOTALL)
_SIGNS = ("Jinja Exception", "While executing", "Unable to generate parser", "Cannot continue an assistant message",
          "Cannot have 2 or more assistant messages", "Failed to parse messages", "type must be string")  # fmt: skip


def template_refusal(text: str) -> str | None:
    """The template's own reason in an error message of llama.cpp; None if it is about something else."""
    if not any(sign in text for sign in _SIGNS) or "JSON schema" in text:
        return None
    found = _REASON.search(text)
    return (found[1] if found else text).strip()


_TEMPLATE_FIELDS = ("tools", "tool_choice", "chat_template_kwargs")


def _with(body: dict[str, Any], messages: list[Message]) -> dict[str, Any]:
    kept: dict[str, Any] = {name: body[name] for name in _TEMPLATE_FIELDS if name in body}
    return {**kept, "messages": [as_sent(message) for message in messages]}


def as_sent(message: Message) -> dict[str, Any]:
    """A message in llama.cpp's form."""
    fields: dict[str, Any] = msgspec.to_builtins(message)
    fields.setdefault("content", None if message.tool_calls else "")
    if (reasoning := fields.pop("reasoning", None)) is not None:
        fields["reasoning_content"] = reasoning
    return fields


_HELLO = [Message(role="user", content="Hello")]


async def _refusal_error(
    request: ChatRequest, body: dict[str, Any], reason: str, apply: ApplyTemplate
) -> InvalidRequestError:
    """The error that names the first message which the template refuses, found by bisection."""
    messages = join_text_parts(request.as_messages())
    low, high = 1, len(messages)
    while low < high:
        middle = (low + high) // 2
        accepted = bool(messages[middle - 1].tool_calls)  # never the last message: results follow
        if not accepted:
            accepted = (await apply(_with(body, rewrite(messages[:middle], RESTRICTIONS))))[0] == 200
        low, high = (middle + 1, high) if accepted else (low, middle)
    where, message = f"messages[{low - 1}]", messages[low - 1]
    if message.tool_calls and low == len(messages):
        return InvalidRequestError(
            f"{where}: an assistant message with tool_calls must be followed by tool messages with their results.",
            param=where,
        )
    return InvalidRequestError(
        f"{where} (role {message.role}): the model's chat template does not allow this message here: "
        f"{reason.rstrip('.')}.",
        param=where,
        hint="Change the order of the messages.",
        operator_hint="Set LLAMACPP_CHAT_TEMPLATE to a template that takes them.",
    )
