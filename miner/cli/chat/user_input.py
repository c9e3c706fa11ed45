"""Where messages come from: a prompt with editing, or plain lines."""

from __future__ import annotations

import asyncio
import os
import sys
from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from miner.cli.chat.interrupt import on_interrupt
from miner.core._typing import override

PROMPT = ">>> "
CONTINUED = "... "
_BLOCK = '"""'


class UserInput(Protocol):
    """Reads what the user types."""

    @abstractmethod
    async def message(self) -> str:
        """The next message or command.

        Raises:
            EOFError: no more comes.
            Cancelled: Ctrl-C; it has what had been typed.
        """

    @abstractmethod
    async def ask(self, question: str) -> str:
        """One line in reply to a question; errors are those of `message`."""

    def reading_ahead(self) -> AbstractContextManager[None]:
        """Within the block, what is typed while nothing is asked is kept for the next prompt."""
        return nullcontext()

    def forget_typed(self) -> None:
        """Drop what was typed ahead, as a terminal does on Ctrl-C."""
        return


class Cancelled(Exception):
    """Ctrl-C at a prompt."""

    def __init__(self, typed: str = "") -> None:
        super().__init__()
        self.typed = typed


def in_block(text: str) -> bool:
    """Whether a block that three quotes began is still open."""
    return text.count(_BLOCK) % 2 == 1


def without_quotes(text: str) -> str:
    """The text of a block, without its three quotes."""
    before, quotes, rest = text.partition(_BLOCK)
    if not quotes:
        return text
    inner, end, after = rest.partition(_BLOCK)
    return f"{before}{inner.strip(chr(10))}{after}" if end else text


class LineInput(UserInput):
    """Lines from a terminal without escape sequences, or with output elsewhere: prompts go to standard error."""

    def __init__(self) -> None:
        self._rest = b""
        self._ended = False

    @override
    async def message(self) -> str:
        text = await self._line(PROMPT)
        while in_block(text):
            text += "\n" + await self._line(CONTINUED)
        return text

    @override
    async def ask(self, question: str) -> str:
        return await self._line(question)

    async def _line(self, prompt: str) -> str:
        sys.stderr.write(prompt)
        sys.stderr.flush()
        while b"\n" not in self._rest:
            if self._ended:
                raise EOFError
            data = await _readable(sys.stdin.fileno())
            if not data:
                self._ended = True
                if not self._rest:
                    raise EOFError
                self._rest += b"\n"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode("utf-8", "replace").removesuffix("\r")


async def _readable(descriptor: int) -> bytes:
    """What can be read next; empty at the end. Ctrl-C raises Cancelled."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[bytes] = loop.create_future()

    def read() -> None:
        if not arrived.done():
            arrived.set_result(os.read(descriptor, 65536))

    def stop() -> bool:
        if arrived.done():
            return False
        arrived.set_exception(Cancelled())
        return True

    loop.add_reader(descriptor, read)
    try:
        with on_interrupt(stop):
            return await arrived
    finally:
        loop.remove_reader(descriptor)
