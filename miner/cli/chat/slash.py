"""The commands of a chat: lines that begin with a slash."""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from miner.cli.chat import commands_conversation as conversation
from miner.cli.chat import commands_request as request
from miner.cli.chat.interrupt import Interrupted, interruptible
from miner.cli.chat.listing import listed
from miner.cli.chat.parameters import PARAMETERS
from miner.cli.chat.session import Chat
from miner.cli.guess import meant
from miner.cli.output.style import columns
from miner.errors import InvalidRequestError, MinerError

_COMMAND = re.compile(r"/([A-Za-z?][\w-]*)(?:\s+(.*))?", re.DOTALL)
"""`/usr/bin` and `/*` are none."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command."""

    name: str
    usage: str
    help: str
    run: Callable[[Chat, str], Awaitable[None]]
    takes: str | None = None
    """What completes it: model, saved, parameter, tools, json or file."""
    hidden: bool = False
    """Another name of one; not listed."""

    @property
    def alone(self) -> bool:
        """Whether nothing may follow it."""
        return " " not in self.usage


_HINT = "/help lists the commands."


async def _help(chat: Chat, text: str) -> None:
    if text:
        name = text.removeprefix("/").lower()
        command = COMMANDS.get(name)
        if command is None:
            raise _unknown(name)
        same = [each for each in COMMANDS.values() if each.run is command.run and not each.hidden] or [command]
        chat.say(listed([(each.usage, each.help) for each in same], columns(sys.stderr)))
        if command.takes == "parameter":
            chat.say(listed(list(PARAMETERS.items()), columns(sys.stderr)))
        return
    rows = [(command.usage, command.help) for command in COMMANDS.values() if not command.hidden]
    chat.say(listed(rows, columns(sys.stderr)))
    chat.say(
        'Enter sends. Alt-Enter or Ctrl-J begins a new line; so does Enter between """ and """.\n'
        "Up and down go through what was typed, Tab completes. Ctrl-C stops a response, Ctrl-D leaves.\n"
        "A message that begins with a slash: put a space before it."
    )


_LIST = [
    Command("model", "/model [NAME]", "list the models, or change to one", request.model, "model"),
    Command("system", "/system [TEXT|off]", "show or set the system message", conversation.system),
    Command("set", "/set [NAME [VALUE]]", "show or set parameters: temperature, max_tokens, ...", request.set_parameter,
            "parameter"),
    Command("json", "/json [SCHEMA FILE|on|off]", "have responses be JSON", request.json_output, "json"),
    Command("tools", "/tools [FILE|on|off]", "show, load or turn off tools", request.tools, "tools"),
    Command("image", "/image FILE [TEXT]", "send an image", conversation.image, "file"),
    Command("retry", "/retry", "send the last message again", conversation.retry),
    Command("clear", "/clear", "forget the messages", conversation.clear),
    Command("save", "/save [NAME]", "save the conversation", conversation.save, "saved"),
    Command("load", "/load [NAME]", "go on with a saved conversation", conversation.load, "saved"),
    Command("stats", "/stats", "show tokens and times", request.stats),
    Command("help", "/help [COMMAND]", "show this, or one command", _help),
    Command("exit", "/exit", "leave (Ctrl-D)", conversation.leave),
    Command("?", "/? [COMMAND]", "", _help, hidden=True),
    Command("bye", "/bye", "", conversation.leave, hidden=True),
    Command("quit", "/quit", "", conversation.leave, hidden=True),
    Command("list", "/list", "list the models", request.model, hidden=True),
    Command("models", "/models", "list the models", request.model, hidden=True),
]  # fmt: skip
COMMANDS = {command.name: command for command in _LIST}
"""Name -> command."""
_MEANT = {
    "show": "/model and /set show what is set", "new": "/clear", "reset": "/clear", "regenerate": "/retry",
    "redo": "/retry", "again": "/retry", "schema": "/json", "format": "/json", "usage": "/stats", "tokens": "/stats",
    "context": "/stats", "img": "/image", "file": "/image", "attach": "/image", "param": "/set", "options": "/set",
    "temperature": "/set temperature", "seed": "/set seed", "think": "/set reasoning", "tool": "/tools", "q": "/exit",
    "open": "/load", "resume": "/load", "write": "/save", "prompt": "/system", "use": "/model", "switch": "/model",
}  # fmt: skip


def command_in(line: str) -> tuple[str, str] | None:
    """The command of a line, empty for a slash alone, and what follows it; None: the line is a message."""
    if line.rstrip() == "/":
        return "", ""
    found = _COMMAND.fullmatch(line.rstrip())
    return None if found is None else (found.group(1).lower(), (found.group(2) or "").strip())


async def run_command(chat: Chat, name: str, text: str) -> None:
    """Run a command; errors are shown, and the chat goes on."""
    if not name:
        chat.say(_HINT)
        return
    command = COMMANDS.get(name)
    try:
        if command is None:
            raise _unknown(name)
        if text and command.alone:
            raise InvalidRequestError(f"/{name} takes nothing after it; nothing was done.", param="command")
        await interruptible(_awaited(command.run(chat, text)))
    except Interrupted:
        chat.note("(stopped)")
    except MinerError as error:
        chat.show_error(error)


async def _awaited(work: Awaitable[None]) -> None:
    await work


def _unknown(name: str) -> InvalidRequestError:
    names = [command.name for command in COMMANDS.values() if not command.hidden]
    guess = _MEANT.get(name)
    if guess is None:
        near = meant(name, names)
        guess = f"/{near}" if near else None
    hint = f"Did you mean {guess}?" if guess else _HINT
    return InvalidRequestError(f"There is no command /{name}; nothing was sent.", param="command", hint=hint)
