"""Tools from a JSON file, and running the command of one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

from miner.cli.json_value import loads
from miner.core.llms.contract.tools import arguments_object, checked_tools
from miner.errors import InvalidRequestError

_SECONDS = 60.0
"""What a command may take."""
_LARGEST = 64 * 1024
"""Bytes of a command's output that the model gets."""


def read_tools(file: str) -> list[dict[str, Any]]:
    """Return the tools of a file: a list as in OpenAI's API, or `{"tools": [...]}`. A tool may have a `command`, a list
    of a program and its arguments, in which `{name}` stands for the call's argument of that name.

    Raises:
        InvalidRequestError: it cannot be read, or has no tools.
    """
    try:
        value = loads(Path(file).expanduser().read_text(encoding="utf-8"))
    except (OSError, RuntimeError) as error:  # RuntimeError: a home that is not known
        why = error.strerror if isinstance(error, OSError) else error
        raise InvalidRequestError(f"{file} cannot be read: {why}.", param="tools") from None
    except ValueError as error:
        raise InvalidRequestError(f"{file} is not JSON: {error}.", param="tools") from None
    return checked_toolset(value, file)


def checked_toolset(value: Any, file: str) -> list[dict[str, Any]]:
    """The tools of a value that stands in a file.

    Raises:
        InvalidRequestError: there are none, or they are none.
    """
    tools = value.get("tools") if isinstance(value, dict) and "tools" in value else value
    tools = [tools] if isinstance(tools, dict) else tools
    bare: list[Any] = [
        {"type": "function", "function": tool} if isinstance(tool, dict) and "function" not in tool else tool
        for tool in (tools if isinstance(tools, list) else [])
    ]
    checked = checked_tools(bare)
    if not checked:
        raise InvalidRequestError(
            f"{file} has no tools.", param="tools",
            hint='It must be a list such as [{"type": "function", "function": {"name": "...", "parameters": {...}}}].',
        )  # fmt: skip
    for tool, source in zip(checked, bare, strict=True):
        command = source.get("command", source["function"].get("command"))
        tool["function"].pop("command", None)
        if command is None:
            continue
        if not isinstance(command, list) or not command or not all(isinstance(word, str) for word in command):
            name = tool["function"]["name"]
            raise InvalidRequestError(
                f'{file}: command of {name} must be a list such as ["date", "-u"].', param="tools"
            )
        tool["command"] = command
    return checked


def command_of(tool: dict[str, Any], call: dict[str, Any]) -> list[str]:
    """The command of a call: each argument takes one place, whatever is in it; no shell reads it.

    Raises:
        InvalidRequestError: the call lacks an argument.
    """
    arguments = arguments_object(call)
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in arguments.items()}
    try:
        return [_filled(word, texts) for word in tool["command"]]
    except KeyError as error:
        raise InvalidRequestError(
            f"The call has no argument {error}, which its command needs.", param="tools"
        ) from None


def _filled(word: str, texts: dict[str, str]) -> str:
    if word.startswith("{") and word.endswith("}") and word[1:-1].isidentifier():
        return texts[word[1:-1]]
    for name, text in texts.items():
        word = word.replace(f"{{{name}}}", text)
    return word


async def run_command(command: list[str], call: dict[str, Any]) -> str:
    """Run a command with the call's arguments as JSON on its standard input; return what it printed, for the model."""
    if shutil.which(command[0]) is None:
        return f"error: there is no program {command[0]}"
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_SECONDS):
            output = await _talk(process, call["function"]["arguments"].encode())
    except TimeoutError:
        return f"error: the command took longer than {_SECONDS:.0f} s"
    finally:
        _end(process)
        await process.wait()
    text = output[:_LARGEST].decode(errors="replace")
    if len(output) > _LARGEST:
        return f"{text}\n[cut after {_LARGEST} bytes; the command was ended]"
    return text if process.returncode == 0 else f"{text}\nexit status {process.returncode}"


async def _talk(process: asyncio.subprocess.Process, text: bytes) -> bytes:
    """Write to a command's standard input; return what it prints, or a little more than is used of it."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it does not read it
        process.stdin.write(text)
        await process.stdin.drain()
        process.stdin.close()
    output = b""
    while len(output) <= _LARGEST and (more := await process.stdout.read(_LARGEST)):
        output += more
    if len(output) <= _LARGEST:
        await process.wait()
    return output


def _end(process: asyncio.subprocess.Process) -> None:
    """Kill a command that still runs, and what it has started."""
    import os
    import signal

    if process.returncode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
