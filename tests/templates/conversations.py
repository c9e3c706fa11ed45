"""Twenty-two conversations as clients really send them. Words that begin with zq stand in no template."""

from __future__ import annotations

from typing import Any

__all__ = ["CONVERSATIONS", "TOOLS"]


def _system(content: Any) -> dict[str, Any]:
    return {"role": "system", "content": content}


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _said(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def _calls(*ids: str, content: str | None = None) -> dict[str, Any]:
    """One call each, of arguments that hold a word made of the id's last letter."""
    calls = [
        {"id": id, "type": "function", "function": {"name": "lookup", "arguments": f'{{"key": "zqcall{id[-1]}"}}'}}
        for id in ids
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def _broken(id: str, arguments: str) -> dict[str, Any]:
    """A call as a model wrote it wrongly."""
    call = {"id": id, "type": "function", "function": {"name": "lookup", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _result(id: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": f"zqresult{id[-1]}"}


def _tool(name: str, parameters: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **more}}


TOOLS = [
    _tool("lookup", {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]}),
    _tool(
        "zqtool",
        {"type": "object", "properties": {"a": {"type": ["integer", "null"]}, "b": {"enum": ["x", "y"]}}},
        description="Do it",
    ),
]
_A, _B = "call_abcdefghijklmnopqrstuva", "call_abcdefghijklmnopqrstuvb"
_U1, _U2, _A1 = _user("zqone"), _user("zqtwo"), _said("zqreply")
_PARTS = [{"type": "text", "text": "zqone"}, {"type": "text", "text": "zqtwo"}]

CONVERSATIONS: dict[str, dict[str, Any]] = {
    "a user": {"messages": [_U1]},
    "a system message, first": {"messages": [_system("zqrule"), _U1]},
    "an empty system message": {"messages": [_system(""), _U1]},
    "several system messages, first": {"messages": [_system("zqrule"), _system("zqmore"), _U1]},
    "a system message, later": {"messages": [_system("zqrule"), _U1, _A1, _system("zqmore"), _U2]},
    "a system message, last": {"messages": [_U1, _A1, _U2, _system("zqmore")]},
    "two users in a row": {"messages": [_U1, _U2, _A1, _said("zqagain"), _user("zqthree")]},
    "the assistant first": {"messages": [_system("zqrule"), _A1, _U1]},
    "the assistant last": {"messages": [_U1, _said("zqreply")]},
    "parts of text": {"messages": [_system(_PARTS), _A1, _user(_PARTS)]},
    "reasoning in the history": {"messages": [_U1, _said("zqreply", reasoning_content="Hm."), _U2]},
    "tools, none": {"messages": [_U1], "tools": TOOLS, "tool_choice": "none"},
    "tools, auto": {"messages": [_system("zqrule"), _U1], "tools": TOOLS, "tool_choice": "auto"},
    "tools, required": {"messages": [_U1], "tools": TOOLS, "tool_choice": "required"},
    "a call and its result": {"messages": [_U1, _calls(_A, content="zqtext"), _result(_A)], "tools": TOOLS},
    "two calls in one message": {"messages": [_U1, _calls(_A, _B), _result(_A), _result(_B), _A1], "tools": TOOLS},
    "a user after a result": {"messages": [_U1, _calls(_A), _result(_A), _system("zqmore"), _U2], "tools": TOOLS},
    "calls without tools": {"messages": [_U1, _calls("abcdefgha"), _result("abcdefgha"), _A1, _U2]},
    "arguments that are no JSON": {
        "messages": [_U1, _broken(_A, '{"key": "zqcalla'), _result(_A), _said("zqtext"), _U2], "tools": TOOLS,
    },
    "arguments that are no object": {
        "messages": [_U1, _broken(_A, '["zqcalla"]'), _result(_A), _said("zqtext"), _U2], "tools": TOOLS,
    },
    "a result without its call": {"messages": [_U1, _A1, _result(_A), _U2], "tools": TOOLS},
    "an agent": {
        "messages": [
            _system("zqrule"), _system("zqmore"), _U1, _user("zqtwo"), _calls(_A, content=""), _result(_A),
            _system("zqreminder"), _calls("toolu_01b", "toolu_01c", content=""), _result("toolu_01c"),
            _result("toolu_01b"), _user("zqthree"), _user("zqfour"),
        ],
        "tools": TOOLS,
    },
}  # fmt: skip
