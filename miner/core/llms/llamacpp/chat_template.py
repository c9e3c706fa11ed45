"""What the chat template of a running llama.cpp server takes, asked of the server, once for each start.

A limit is looked for when the first conversation comes that would break it: a conversation of that kind, made of words
that stand in no template, goes through `/apply-template` (no token is generated). If the server refuses it, or the
prompt lacks one of the words, has them in another order or runs two of them together, the template has the limit: a
message that is dropped silently is as bad as one that is refused, and one that moves to the front costs the KV cache.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from miner.core.llms.llamacpp.conversation import ADAPTABLE, adapted, flattened, limits_met
from miner.core.llms.llamacpp.emulated_tools import calls_as_text, tools_as_text
from miner.core.wire import ChatRequest, Message
from miner.errors import InvalidRequestError, UnsupportedFeatureError

__all__ = ["Apply", "Fitted", "Template", "template_refusal"]

Apply = Callable[[dict[str, Any]], Awaitable["tuple[int, str]"]]
"""Asks `/apply-template`: status, and the prompt or the error's message."""


class Fitted(msgspec.Struct):
    """A request's conversation as it is sent."""

    messages: list[Message]
    reads_calls: bool = False
    """Calls are read out of the reply's text."""
    tells_tools: bool = False
    """The tools are told in the messages, and are not sent as such."""


class Template:
    """The chat template of one running server.

    Args:
        asked: the server is llama.cpp's own, which can be asked; another gets what the client sent until it refuses.
        declares_tools: it tells the model of tools (`chat_template_caps`).
        takes_system: it has a system role.
    """

    def __init__(self, *, asked: bool = True, declares_tools: bool = True, takes_system: bool = True) -> None:
        self._asked = asked
        # llama.cpp puts a system message into whatever comes first where the template has no such role.
        self._limits: dict[str, bool] = {} if takes_system else {"system": True}
        self._declares_tools = declares_tools
        self._refused: set[frozenset[str]] = set()
        self._refused_tools: set[bytes] = set()

    async def fit(self, request: ChatRequest, apply: Apply, *, schema: bool) -> Fitted:
        """The conversation of a request in the form that the template takes.

        Args:
            schema: the reply is held to a JSON schema (or a call must come).

        Raises:
            UnsupportedFeatureError: the template's format lets nothing be enforced.
        """
        if schema and await self._has("schema", apply):
            param = "response_format" if request.tools is None or request.response_format else "tool_choice"
            raise UnsupportedFeatureError(
                f"llamacpp's model {request.model!r} does not support {param}: llama.cpp enforces no JSON schema in "
                "the format of its chat template.",
                param=param,
                hint="Leave it out, or use another chat template (LLAMACPP_CHAT_TEMPLATE).",
            )
        messages = flattened(request.as_messages())
        tools = request.tools if request.tool_choice != "none" else None
        met = limits_met(messages)
        if not met and tools is None:
            return Fitted(messages)  # one user's message
        as_text = tools is not None and (not self._declares_tools or self._refuses(tools))
        return await self._fit(messages, met, tools, apply, as_text=as_text)

    async def _fit(
        self, messages: list[Message], met: set[str], tools: list[dict[str, Any]] | None, apply: Apply, *, as_text: bool
    ) -> Fitted:
        told = tools if as_text else None
        if as_text or ("calls" in met and await self._has("calls", apply)):
            messages, as_text = calls_as_text(messages), tools is not None
            if told is not None:
                messages = tools_as_text(messages, told)
            met = limits_met(messages)
        if self._refused and frozenset(met) in self._refused:
            return Fitted(adapted(messages, ADAPTABLE), as_text, told is not None)
        given = messages
        limits: set[str] = set()
        while True:
            new = [limit for limit in ADAPTABLE if limit in met and limit not in limits]
            more = [limit for limit in new if await self._has(limit, apply)]
            if not more:
                return Fitted(messages, as_text, told is not None)
            limits.update(more)
            messages = adapted(given, limits)
            met = limits_met(messages)

    async def refused(
        self, request: ChatRequest, fitted: Fitted, body: dict[str, Any], said: str, apply: Apply
    ) -> Fitted:
        """What to send instead of a conversation that was refused although nothing spoke against it.

        Raises:
            InvalidRequestError: nothing helps; names the message, and the template's rule in its own words.
        """
        strict = adapted(fitted.messages, ADAPTABLE)
        if strict != fitted.messages and (await apply(_with(body, strict)))[0] in (200, *_CANNOT_TELL):
            self._refused.add(frozenset(limits_met(fitted.messages)))
            return Fitted(strict, fitted.reads_calls, fitted.tells_tools)
        if "tools" in body and (await apply(_with(body, _PLAIN)))[0] != 200:
            # A schema that its program did not foresee (a type that is a list, a property without one).
            if len(self._refused_tools) >= _MOST_REFUSED:
                self._refused_tools.clear()
            self._refused_tools.add(msgspec.json.encode(body["tools"]))
            messages = flattened(request.as_messages())
            return await self._fit(messages, limits_met(messages), request.tools, apply, as_text=True)
        raise await _explained(request, body, said, apply)

    def _refuses(self, tools: list[dict[str, Any]]) -> bool:
        return bool(self._refused_tools) and msgspec.json.encode(tools) in self._refused_tools

    async def _has(self, limit: str, apply: Apply) -> bool:
        known = self._limits.get(limit)
        if known is None and not self._asked:
            return False
        if known is None:
            known = self._limits[limit] = await _probe(limit, apply)
        return known


_MOST_REFUSED = 100
"""Sets of tools that are remembered; each is one refusal less."""
_CANNOT_TELL = (404, 405, 501)


async def _probe(limit: str, apply: Apply) -> bool:
    body, words = _PROBES[limit]
    status, text = await apply(body)
    if status in _CANNOT_TELL:
        return False  # a server that cannot be asked: it gets what the client sent
    if limit == "schema":
        return status == 200  # a schema that is none was not even looked at
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

_SAID = re.compile(r"Error: (?:Jinja Exception: )?(.+)", re.DOTALL)
_SIGNS = ("Jinja Exception", "While executing", "Unable to generate parser", "Cannot continue an assistant message",
          "Cannot have 2 or more assistant messages", "Failed to parse messages", "type must be string")  # fmt: skip


def template_refusal(text: str) -> str | None:
    """The template's own words in an error of llama.cpp's; None if it is about something else."""
    if not any(sign in text for sign in _SIGNS) or "JSON schema" in text:
        return None
    found = _SAID.search(text)
    return (found[1] if found else text).strip()


_OF_THE_TEMPLATE = ("tools", "tool_choice", "chat_template_kwargs")


def _with(body: dict[str, Any], messages: list[Message]) -> dict[str, Any]:
    kept: dict[str, Any] = {name: body[name] for name in _OF_THE_TEMPLATE if name in body}
    return {**kept, "messages": [as_sent(message) for message in messages]}


def as_sent(message: Message) -> dict[str, Any]:
    """A message in llama.cpp's form."""
    turn: dict[str, Any] = msgspec.to_builtins(message)
    turn.setdefault("content", None if message.tool_calls else "")
    if (thoughts := turn.pop("reasoning", None)) is not None:
        turn["reasoning_content"] = thoughts
    return turn


_PLAIN = [Message(role="user", content="Hello")]


async def _explained(request: ChatRequest, body: dict[str, Any], said: str, apply: Apply) -> InvalidRequestError:
    """The error that names the first message at which the template refuses."""
    messages = flattened(request.as_messages())
    rule = said.rstrip(".")
    low, high = 1, len(messages)
    while low < high:  # the shortest beginning that is refused
        middle = (low + high) // 2
        taken = bool(messages[middle - 1].tool_calls)  # a call in the middle is never the last message
        if not taken:
            taken = (await apply(_with(body, adapted(messages[:middle], ADAPTABLE))))[0] == 200
        low, high = (middle + 1, high) if taken else (low, middle)
    where, message = f"messages[{low - 1}]", messages[low - 1]
    if message.tool_calls and low == len(messages):
        return InvalidRequestError(
            f"{where}: an assistant message with tool_calls must be followed by tool messages with their results.",
            param=where,
        )
    return InvalidRequestError(
        f"{where} (role {message.role}): the model's chat template does not allow this message here: {rule}.",
        param=where,
        hint="Change the order of the messages, or set LLAMACPP_CHAT_TEMPLATE to a template that takes them.",
    )
