"""The state of a chat, and what its commands and messages do with it."""

from __future__ import annotations

import contextlib
import logging
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from miner.cli.chat.conversation import Conversation
from miner.cli.chat.interrupt import Interrupted, interruptible
from miner.cli.chat.models import refuse_other_kinds
from miner.cli.chat.reply import Reply
from miner.cli.chat.unsupported import advice_on
from miner.cli.chat.usage import Usage, context_hint
from miner.cli.output.errors import complain
from miner.cli.output.style import Style, columns
from miner.cli.output.visible import one_line, visible
from miner.cli.verbosity import quiet
from miner.core._typing import override
from miner.core.wire import UNLIMITED, LLMResponse, ModelInfo
from miner.errors import ContextLengthError, MinerError

if TYPE_CHECKING:
    from miner.cli.chat.history import History
    from miner.cli.chat.screen import Screen
    from miner.cli.chat.user_input import UserInput
    from miner.cli.chat.view import View
    from miner.core.llms.LLMService import LLMService

_LOG_LINES = 12


@dataclass(slots=True)
class Looks:
    """How responses are shown."""

    markdown: bool
    colour: bool
    reasoning: bool = True
    verbose: bool = False


@dataclass(slots=True)
class Chat:
    """One chat with a service."""

    service: LLMService
    where: str
    """Where the model runs, in words."""
    conversation: Conversation
    looks: Looks
    input: UserInput
    history: History
    screen: Screen | None
    """None: text is written as it comes."""
    max_tokens: int
    """Of a response, unless `/set` says otherwise."""
    usage: Usage = field(default_factory=Usage)
    model: ModelInfo | None = None
    """The model that is talked to, as far as it is known."""
    models: list[str] = field(default_factory=list)
    """Names for completion."""
    leaving: bool = False
    _view: View | None = None

    # What people read

    def say(self, text: str, kind: str = "") -> None:
        """Print text for people: kind is dim, bold, yellow, red or nothing."""
        text = visible(text)
        style = Style(sys.stderr)
        lines = [row for line in text.split("\n") for row in _fitted(line, columns(sys.stderr))]
        lines = [getattr(style, kind)(line) if kind and line else line for line in lines]
        if self._view is not None:
            self._view.interject(lines)
        else:
            complain("\n".join(lines))

    def note(self, text: str) -> None:
        """Print what may be left out (-q)."""
        if not quiet():
            self.say(text, "dim")

    def show_error(self, error: MinerError) -> None:
        """Print an error with what to do about it."""
        self.say(f"miner: {error.message}", "red")
        if (hints := advice_on(error, self.conversation.options)) is not None:
            self.say(f"  {hints}")
        tail = [line for line in getattr(error, "log_tail", ()) if line not in error.message]
        if tail:
            self.say("\n".join(["  Last lines of the engine's log:", *(f"  | {line}" for line in tail[-_LOG_LINES:])]))

    # Models

    async def find_model(self, name: str | None) -> ModelInfo | None:
        """Make a model the one that is talked to.

        Raises:
            MinerError: there is no such model, it generates no text, or the server cannot be reached.
        """
        found = await self.service.resolve_model(name)
        if found is not None:
            await refuse_other_kinds(found, self.service)
        self.model = found
        self.conversation.model = name if name is not None else (found.id if found is not None else None)
        self.usage.context_length = found.context_length if found is not None else None
        return found

    @property
    def model_name(self) -> str:
        """The model that is talked to, in words."""
        return self.conversation.model or (self.model.id if self.model is not None else "the server's model")

    def can(self, capability: str) -> bool | None:
        """Whether the model has a capability; None: its server does not say."""
        known = self.model.capabilities if self.model is not None else None
        return None if known is None else capability in known

    # Messages

    async def response(self) -> LLMResponse | None:
        """Have the model respond to the conversation once, and show it; None: it was stopped, or failed.

        What had come by then stays in the conversation: it is on the screen, and "go on" refers to it.
        """
        reply = Reply(self.service, {"max_tokens": self.max_tokens, **self.conversation.request()})
        try:
            with self._viewed() as view:
                response = await interruptible(reply.receive(view))
        except Interrupted:
            if reply.begun:
                self.conversation.answer(reply.partial(), stopped=True)
                self._note_below("(stopped; what had come stays in the conversation)")
            else:
                self._note_below("(stopped before anything had come; /retry sends your message again)")
            return None
        except MinerError as error:
            self.show_error(error)
            if isinstance(error, ContextLengthError):
                self.usage.context_length = error.context_length or self.usage.context_length
                self.say(f"  {context_hint(getattr(self.service, 'name', None))}.")
            partial = reply.partial() if reply.begun else None
            if partial is not None and partial.content:
                self.conversation.answer(partial, stopped=True)
                self.note("What had come stays in the conversation.")
            self.note("Your message is kept: /retry sends it again.")
            return None
        self.conversation.answer(response)
        self.usage.add(response)
        await self._learn_context()
        self._note_end(response)
        return response

    @contextlib.contextmanager
    def _viewed(self) -> Iterator[View]:
        """A view of a response; what it has not shown when the block ends is printed then."""
        from miner.cli.chat.view import MarkdownView, PlainView

        language = "json" if self.conversation.response_format is not None else None
        reasoning = self.looks.reasoning
        with contextlib.ExitStack() as stack:
            view: View
            if self.screen is not None:
                stack.enter_context(self.screen.streaming())
                self.screen.show([""])
                if self.looks.markdown:
                    view = MarkdownView(self.screen, colour=self.looks.colour, language=language, reasoning=reasoning)
                else:
                    view = PlainView(self.screen.write, clean=True, reasoning=reasoning)
            else:
                view = PlainView(_write, clean=sys.stdout.isatty(), reasoning=reasoning)
            self._view = view
            try:
                yield view
            finally:
                self._view = None
                view.end()

    async def _learn_context(self) -> None:
        """Ask for the context length where it was not known before the model was loaded."""
        if self.usage.context_length is None:
            with contextlib.suppress(MinerError, Interrupted):
                found = await interruptible(self.service.resolve_model(self.conversation.model))
                self.model = found or self.model
                self.usage.context_length = found.context_length if found is not None else None

    def _note_end(self, response: LLMResponse) -> None:
        """Print the footer, and why a response is not complete."""
        reason = response.finish_reason
        most = self.conversation.options.get("max_tokens", self.max_tokens)
        if response.context_exhausted or (reason == "length" and most == UNLIMITED):
            self.say(f"The context is full: the response was cut. {context_hint(response.backend)}.", "yellow")
        elif reason == "length":
            self.say(f"The response was cut at max_tokens={most}: /set max_tokens -1 lifts that.", "yellow")
        elif reason == "repetition":
            self.say("The engine stopped the response: the model repeated the same token.", "yellow")
        elif reason == "content_filter":
            self.say("The engine's content filter stopped the response.", "yellow")
        elif reason == "unknown":
            self.say("The engine stopped the response for an unknown reason.", "yellow")
        elif not response.content and not response.tool_calls:
            self.say("The response is empty.", "yellow")
        for name in response.ignored:
            if name not in ("progress", "continuous_usage"):
                self.say(f"Left out, as the engine does not support it: {one_line(name)}.", "yellow")
        footer = self.usage.footer()
        if footer:
            self._note_below(footer)
        warning = None if response.context_exhausted else self.usage.warning(response.backend)
        if warning:
            self.say(warning, "yellow")
        if self.looks.verbose:
            from miner.cli.chat.statistics import timings_of

            self.say(timings_of(response), "dim")

    def _note_below(self, text: str) -> None:
        """Print what may be left out below a response, apart from it on a terminal."""
        self.note(f"\n{text}\n" if self.screen is not None else text)


class ChatLog(logging.Handler):
    """Log handler that prints the library's warnings between the lines of a chat."""

    def __init__(self, chat: Chat) -> None:
        super().__init__(logging.WARNING)
        self._chat = chat

    @override
    def emit(self, record: logging.LogRecord) -> None:
        if record.name not in ("miner.retry", "miner.engine"):  # the error that follows says it
            self._chat.note(f"miner: {record.getMessage()}")


def _fitted(line: str, width: int | None) -> list[str]:
    """A line in rows that end at words, the later ones indented as the first."""
    if width is None or len(line) <= width:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()))
    rows = textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return rows or [line]


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
