"""Commands about what goes with requests: /model, /set, /json, /tools, /stats."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from miner.cli.chat.commands_conversation import system
from miner.cli.chat.interrupt import in_background
from miner.cli.chat.listing import listed
from miner.cli.chat.parameters import PARAMETERS, parse
from miner.cli.chat.session import Chat
from miner.cli.chat.statistics import statistics_of
from miner.cli.chat.toolfile import read_tools
from miner.cli.chat.words import first_word, unquoted
from miner.cli.json_value import json_value
from miner.cli.output.style import columns
from miner.cli.output.tables import aligned
from miner.cli.output.visible import one_line
from miner.core.llms.contract.structured import output_format
from miner.errors import InvalidRequestError, UnsupportedFeatureError

_SWITCHES = {
    "verbose": ("verbose", True), "quiet": ("verbose", False), "wordwrap": ("markdown", True),
    "nowordwrap": ("markdown", False), "show_reasoning": ("reasoning", True), "hide_reasoning": ("reasoning", False),
}  # fmt: skip
"""What `/set` changes of the looks: some as Ollama has it."""


async def model(chat: Chat, name: str) -> None:
    """List the models, or change to one; the conversation stays."""
    name = unquoted(name)
    if name and name != "list":
        info = await chat.find_model(name)
        length = info.context_length if info is not None else None
        chat.say(f"The model is {chat.model_name}{f', context {length:,} tokens' if length else ''}.")
        if chat.can("images") is False and any(isinstance(m.get("content"), list) for m in chat.conversation.messages):
            chat.say("It does not see the images of this conversation: /clear begins again.", "yellow")
        return
    models = await chat.service.list_models()
    chat.models = [info.id for info in models]
    if not models:
        chat.say("The server lists no models.")
        return
    current = {chat.conversation.model, chat.model.id if chat.model is not None else None}
    rows = [("", "NAME", "CONTEXT", "LOADED")]
    rows += [
        (
            "*" if current & {info.id, *info.aliases} else "",
            one_line(info.id),
            f"{info.context_length:,}" if info.context_length else "?",
            {True: "yes", False: "no", None: "?"}[info.loaded],
        )
        for info in models
    ]
    chat.say(aligned(rows, right=frozenset({2}), columns=columns(sys.stderr)))


async def set_parameter(chat: Chat, text: str) -> None:
    """Show or set parameters."""
    name, value = first_word(text)
    if name == "parameter":
        name, value = first_word(value)
    name = name.lower().replace("-", "_")
    if not name:
        chat.say(_parameters(chat))
    elif name in _SWITCHES:
        what, on = _SWITCHES[name]
        turned_on = _on(name, value)
        setattr(chat.looks, what, on is turned_on)
        if what == "markdown" and chat.looks.markdown and chat.screen is None:
            chat.looks.markdown = False
            raise UnsupportedFeatureError("Markdown needs a terminal with escape sequences.", param="wordwrap")
        chat.say(f"{name} is {'on' if turned_on else 'off'}.")
    elif name in ("history", "nohistory"):
        chat.history.enabled = (name == "history") is _on(name, value)
        chat.say(f"What you type is {'kept' if chat.history.enabled else 'not kept'} for later chats.")
    elif name == "system":
        await system(chat, value)
    elif name in ("format", "noformat", "json"):
        await json_output(chat, "off" if name == "noformat" else "" if value == "json" else value)
    elif name in ("think", "nothink"):
        _set(chat, "reasoning", "off" if name == "nothink" else value or "on")
    elif value:
        _set(chat, name, value)
    else:
        name, _ = parse(name, "default")
        back = f"; /set {name} default takes it back" if name in chat.conversation.options else ""
        chat.say(f"{name} = {_shown(chat, name)}  ({PARAMETERS[name]}{back})")


def _on(name: str, text: str) -> bool:
    """Whether a switch is turned on; without a word it is.

    Raises:
        InvalidRequestError: the word is neither on nor off.
    """
    if text.lower() not in ("", "on", "off"):
        raise InvalidRequestError(f"{name} takes on or off, not {one_line(text, 40)!r}.", param=name)
    return text.lower() != "off"


def _set(chat: Chat, name: str, text: str) -> None:
    name, value = parse(name, text)
    if value is None:
        chat.conversation.options.pop(name, None)
        chat.say(f"{name} has its default again.")
    else:
        chat.conversation.options[name] = value
        chat.say(f"{name} = {json.dumps(value, ensure_ascii=False)}")


def _shown(chat: Chat, name: str) -> str:
    """The value of a parameter, in this chat or by default."""
    value = chat.conversation.options.get(name)
    if value is None:
        settings = chat.service._settings
        defaults: dict[str, object] = {
            "max_tokens": chat.max_tokens, "temperature": settings.default_temperature, "top_p": settings.default_top_p,
        }  # fmt: skip
        return str(defaults.get(name, "-"))
    return json.dumps(value, ensure_ascii=False)


def _parameters(chat: Chat) -> str:
    rows = [(f"{name} = {_shown(chat, name)}", what) for name, what in PARAMETERS.items()]
    table = listed(rows, columns(sys.stderr))
    return f"{table}\n/set NAME VALUE sets one, /set NAME default takes it back."


async def json_output(chat: Chat, text: str) -> None:
    """Have responses be JSON, by a schema if a file has one."""
    file, _ = first_word(text)
    if file.lower() == "off":
        chat.conversation.response_format = None
        chat.say("Responses are text again.")
        return
    if file.lower() in ("", "on"):
        if chat.can("json_object") is False:
            raise UnsupportedFeatureError(f"{chat.model_name} does not support JSON output.", param="response_format")
        chat.conversation.response_format = {"type": "json_object"}
        chat.say("Responses are JSON objects from now on; say in your message what they hold. /json off ends it.")
        return
    schema = await in_background(lambda: json_value(file, "/json"))
    if isinstance(schema, dict) and isinstance(schema.get("json_schema"), dict):
        schema = schema["json_schema"]
    if isinstance(schema, dict) and isinstance(schema.get("schema"), dict):
        schema = schema["schema"]
    if not isinstance(schema, dict):
        raise InvalidRequestError(f"{one_line(file, 60)} is {_kind(schema)}, not a schema.", param="response_format")
    wanted = {"type": "json_schema", "json_schema": {"name": Path(file).stem[:60] or "output", "schema": schema}}
    output_format(wanted)  # an invalid schema is named now
    chat.conversation.response_format = wanted
    chat.say(f"Responses match the schema of {file} from now on. /json off ends it.")


def _kind(value: object) -> str:
    kinds: dict[type, str] = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


async def tools(chat: Chat, text: str) -> None:
    """Show, load, or turn the tools on and off."""
    word, _ = first_word(text)
    if word.lower() in ("on", "off"):
        if not chat.conversation.tools:
            raise InvalidRequestError("There are no tools.", param="tools", hint="/tools FILE loads some.")
        chat.conversation.tools_on = word.lower() == "on"
    elif word:
        found = await in_background(lambda: read_tools(word))
        if chat.can("tools") is False:
            raise UnsupportedFeatureError(f"{chat.model_name} does not support tools.", param="tools")
        chat.conversation.tools, chat.conversation.tools_on = found, True
    if not chat.conversation.tools:
        chat.say("There are no tools. /tools FILE loads them: a JSON list as in OpenAI's API; docs/cli.md shows one.")
        return
    rows = [("NAME", "DESCRIPTION", "RESULT")]
    for tool in chat.conversation.tools:
        function = tool["function"]
        command = " ".join(tool["command"]) if tool.get("command") else "you type the result"
        rows.append((one_line(function["name"], 60), one_line(function.get("description", ""), 80), one_line(command)))
    state = "on" if chat.conversation.tools_on else "off"
    chat.say(f"Tools are {state}:\n" + aligned(rows, columns=columns(sys.stderr)))
    if any(tool.get("command") for tool in chat.conversation.tools):
        chat.note("A command runs only after you say yes.")


async def stats(chat: Chat, text: str) -> None:
    """Show tokens and times."""
    chat.say(statistics_of(chat.usage))
