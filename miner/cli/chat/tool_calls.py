"""Tool calls of a model: they are shown, and the user answers them. A command runs only after a yes."""

from __future__ import annotations

import json
import shlex
from typing import Any

from miner.cli.chat.interrupt import Interrupted, interruptible
from miner.cli.chat.session import Chat
from miner.cli.chat.toolfile import command_of, run_command
from miner.cli.chat.user_input import Cancelled
from miner.cli.json_value import loads
from miner.cli.output.visible import one_line, visible
from miner.errors import InvalidRequestError

_SHOWN_LINES = 20


async def answer_calls(chat: Chat, calls: list[dict[str, Any]]) -> None:
    """Add the result of each call to the conversation.

    Raises:
        Interrupted, EOFError: the user answers none.
    """
    for call in calls:
        chat.say(f"The model calls {_shown(call)}", "bold")
        chat.conversation.tool_result(call, await _result(chat, call))


async def _result(chat: Chat, call: dict[str, Any]) -> str:
    name = call["function"]["name"]
    tool = next((each for each in chat.conversation.tools if each["function"]["name"] == name), None)
    if tool is not None and tool.get("command"):
        try:
            command = command_of(tool, call)
        except InvalidRequestError as error:
            chat.show_error(error)
        else:
            chat.say(f"Its command: {visible(shlex.join(command))}")
            answer = (await _ask(chat, "Run it? [y/N] ")).strip().lower()
            if answer in ("y", "yes"):
                result = await interruptible(run_command(command, call))
                lines = result.rstrip().split("\n")
                more = f"\n  ... {len(lines) - _SHOWN_LINES} more lines" if len(lines) > _SHOWN_LINES else ""
                chat.say("\n".join(f"  {line}" for line in lines[:_SHOWN_LINES]) + more, "dim")
                return result
            chat.say("It was not run.")
    chat.note("Type its result, on one line; Ctrl-C drops the call.")
    return await _ask(chat, "result> ")


async def _ask(chat: Chat, question: str) -> str:
    try:
        return await chat.input.ask(question)
    except Cancelled:
        raise Interrupted from None


def _shown(call: dict[str, Any]) -> str:
    """A call as a line of code."""
    name, text = call["function"]["name"], call["function"]["arguments"]
    try:
        arguments = loads(text or "{}")
    except ValueError:
        return f"{one_line(name)}: {one_line(text, 1000)}"
    if not isinstance(arguments, dict):
        return f"{one_line(name)}({one_line(text, 1000)})"
    inner = ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in arguments.items())
    return f"{one_line(name)}({one_line(inner, 1000)})"
