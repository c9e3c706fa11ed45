"""The loop of a chat: read a message or command, respond, until the user leaves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from miner.cli.chat.interrupt import interrupts_kept
from miner.cli.chat.respond import send
from miner.cli.chat.session import Chat
from miner.cli.chat.slash import command_in, run_command
from miner.cli.chat.user_input import Cancelled, without_quotes
from miner.errors import MinerError

KEYS = "Ctrl-C stops a response, Ctrl-D leaves; /help lists the commands."
_REPEATED = 0.5
"""Seconds between two presses of Ctrl-C that are meant apart."""


def greet(chat: Chat) -> None:
    """Say what is talked to, and the two keys one must know."""
    length = chat.usage.context_length
    context = f"context {length:,} tokens" if length else "context unknown"
    chat.say(f"{chat.model_name} · {chat.where} · {context}", "bold")
    chat.note(KEYS)
    if chat.history.problem:
        chat.note(chat.history.problem)


async def converse(chat: Chat) -> None:
    """Talk until the user leaves: Ctrl-D, /exit, or Ctrl-C twice at an empty prompt."""
    stops = Stops(chat)
    with interrupts_kept(stops.pressed):
        await _converse(chat, stops)


class Stops:
    """Presses of Ctrl-C: of a key that is held or pressed several times, only the first one counts."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._last = float("-inf")
        self._responding = False

    @contextmanager
    def while_responding(self) -> Iterator[None]:
        """Something goes on within the block that a press stops."""
        self._responding = True
        try:
            yield
        finally:
            self._responding = False

    def pressed(self) -> None:
        """A signal came."""
        self._chat.input.forget_typed()
        if self._responding:
            self._last = time.monotonic()

    def repeated(self) -> bool:
        """Whether a press at a prompt follows another one too soon to have been meant for the prompt."""
        now = time.monotonic()
        soon, self._last = now - self._last < _REPEATED, now
        return soon


async def _converse(chat: Chat, stops: Stops) -> None:
    warned = False
    while not chat.leaving:
        try:
            text = await chat.input.message()
        except EOFError:
            return
        except Cancelled as stop:
            if stops.repeated():
                continue
            if stop.typed.strip():
                warned = False
            elif warned:
                return
            else:
                warned = True
                chat.say("Ctrl-D or /exit leaves; so does Ctrl-C again.")
            continue
        warned = False
        if not text.strip():
            continue
        try:
            with stops.while_responding():
                await _handle(chat, text)
        except (MinerError, OSError):  # the output cannot be written
            raise
        except Exception as error:  # noqa: BLE001  (the conversation outlives a bug)
            _report_bug(chat, error)


async def _handle(chat: Chat, text: str) -> None:
    """Do what was typed."""
    command = command_in(text)
    if command is not None:
        await run_command(chat, *command)
    else:
        await send(chat, {"role": "user", "content": without_quotes(text).strip("\n")})


def _report_bug(chat: Chat, error: Exception) -> None:
    chat.say(f"miner: Unexpected {type(error).__name__}: {' '.join(str(error).split())[:500]}", "red")
    chat.say("  This is a bug in miner. The conversation goes on; /save NAME keeps it.")
