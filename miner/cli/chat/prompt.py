"""The prompt of a terminal: several lines, history, completion."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app, run_in_terminal
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import History as PromptHistory
from prompt_toolkit.input.typeahead import clear_typeahead, store_typeahead
from prompt_toolkit.key_binding import KeyBindings, KeyPress, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import ColorDepth, create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.styles import Style

from miner.cli.chat.completion import ChatCompleter
from miner.cli.chat.history import History
from miner.cli.chat.interrupt import on_interrupt
from miner.cli.chat.user_input import CONTINUED, PROMPT, Cancelled, UserInput, in_block
from miner.core._typing import override

_STYLE = Style.from_dict(
    {
        "prompt": "bold",
        "placeholder": "dim",
        "auto-suggestion": "noinherit dim",
        "completion-menu": "noinherit",
        "completion-menu.completion": "noinherit",
        "completion-menu.completion.current": "noinherit reverse",
        "completion-menu.meta.completion": "noinherit dim",
        "completion-menu.meta.completion.current": "noinherit reverse",
        "scrollbar.background": "noinherit",
        "scrollbar.button": "noinherit reverse",
    }
)
_ROWS_FOR_MENU = 6


class PromptInput(UserInput):
    """Reads messages with prompt-toolkit.

    Args:
        words: what commands can be completed with, by kind.
    """

    def __init__(self, history: History, words: Callable[[str], Iterable[str]]) -> None:
        output = create_output()
        if isinstance(output, Vt100_Output):
            # Terminals that do not tell where the cursor is would get a warning, or their response as typed text.
            output.enable_cpr = False
        settings: dict[str, Any] = {
            "style": _STYLE, "include_default_pygments_style": False, "output": output,
            "enable_suspend": True,  # Ctrl-Z
        }  # fmt: skip
        if os.environ.get("NO_COLOR"):
            settings["color_depth"] = ColorDepth.DEPTH_1_BIT
        self._session: PromptSession[str] = PromptSession(
            history=_SharedHistory(history),
            key_bindings=_keys(),
            multiline=True,
            completer=ChatCompleter(words),
            complete_while_typing=Condition(self._is_command),
            auto_suggest=AutoSuggestFromHistory(),
            reserve_space_for_menu=_ROWS_FOR_MENU,
            prompt_continuation=_continuation,
            **settings,
        )
        self._questions: PromptSession[str] = PromptSession(key_bindings=_quit_key(), **settings)

    @override
    @contextmanager
    def reading_ahead(self) -> Iterator[None]:
        """Otherwise it would stay in the terminal's queue, and when that is full, Ctrl-C waits behind it."""
        source = self._session.app.input

        def read() -> None:
            store_typeahead(source, source.read_keys())

        # The terminal made line feeds of what was typed before Enter was left alone (UnechoedKeys).
        while early := source.read_keys():
            enter = KeyPress(Keys.ControlM, "\r")
            store_typeahead(source, [enter if press.key == Keys.ControlJ else press for press in early])
        with source.attach(read):
            yield

    @override
    def forget_typed(self) -> None:
        source = self._session.app.input
        clear_typeahead(source)
        parser = getattr(source, "vt100_parser", None)  # not on Windows
        if parser is not None:
            parser.reset()  # the rest of a paste was dropped by the terminal

    def _is_command(self) -> bool:
        return self._session.default_buffer.text.startswith("/")

    @override
    async def message(self) -> str:
        prompt = FormattedText([("class:prompt", PROMPT)])
        try:
            return await _typed(self._session, prompt, placeholder=_placeholder)
        except KeyboardInterrupt:
            raise Cancelled(self._session.default_buffer.text) from None

    @override
    async def ask(self, question: str) -> str:
        try:
            return await _typed(self._questions, question)
        except KeyboardInterrupt:
            raise Cancelled from None


async def _typed(session: PromptSession[str], prompt: FormattedText | str, **settings: Any) -> str:
    """What is typed at a prompt.

    Raises:
        EOFError: Ctrl-D.
        KeyboardInterrupt: Ctrl-C, as a key, or as a signal while the terminal is not yet or no longer the prompt's.
    """

    def stop() -> bool:
        if not session.app.is_running or session.app.is_done:
            return False
        session.app.exit(exception=KeyboardInterrupt(), style="class:aborting")
        return True

    with on_interrupt(stop):
        return await session.prompt_async(prompt, handle_sigint=False, **settings)


class _SharedHistory(PromptHistory):
    """Our history, as prompt-toolkit wants it."""

    def __init__(self, history: History) -> None:
        super().__init__()
        self._history = history

    @override
    def load_history_strings(self) -> Iterable[str]:
        return reversed(self._history.entries)

    @override
    def store_string(self, string: str) -> None:
        self._history.add(string)


def _continuation(width: int, line: int, wraps: int) -> FormattedText:
    """What stands before a further line; nothing before the rest of one that is too long for the terminal."""
    return FormattedText([("class:prompt", " " * width if wraps else CONTINUED)])


def _placeholder() -> FormattedText:
    """What an empty prompt says; nothing once it is left behind."""
    return FormattedText([] if get_app().is_done else [("class:placeholder", "Send a message (/help)")])


def _quit_key() -> KeyBindings:
    """The key that quits wherever the terminal makes a signal of it does so here."""
    keys = KeyBindings()

    @keys.add("c-\\")
    def _(event: KeyPressEvent) -> None:
        run_in_terminal(lambda: os.kill(os.getpid(), signal.SIGQUIT))

    return keys


def _keys() -> KeyBindings:
    keys = _quit_key()
    bound = keys.add

    @bound("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        state = buffer.complete_state
        if state is not None and state.current_completion is not None:
            buffer.complete_state = None  # Enter takes the completion; the next one sends
        elif in_block(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @bound("tab")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        state = buffer.complete_state
        if state is not None and len(state.completions) == 1:
            buffer.apply_completion(state.completions[0])  # nothing is left to choose: Enter sends
            return
        if state is not None:
            buffer.complete_next()
            return
        # Not start_completion: that gives way to the completion while typing, which may not be done yet.
        found = list(buffer.completer.get_completions(buffer.document, CompleteEvent(completion_requested=True)))
        if len(found) == 1:
            buffer.apply_completion(found[0])
        elif found:
            buffer.start_completion(select_first=True)

    @bound("escape", "enter")
    @bound("c-j")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys
