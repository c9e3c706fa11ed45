"""Opens a chat in this terminal."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from miner.cli.chat.arguments import MAX_TOKENS, request_of
from miner.cli.chat.conversation import Conversation
from miner.cli.chat.history import History
from miner.cli.chat.menu import chosen
from miner.cli.chat.private_files import chat_directory
from miner.cli.chat.saved import check_request
from miner.cli.chat.screen import Screen, UnechoedKeys
from miner.cli.chat.session import Chat, ChatLog, Looks
from miner.cli.chat.unsupported import refuse_options
from miner.cli.chat.user_input import LineInput, UserInput
from miner.cli.output.style import is_terminal
from miner.cli.target import open_target
from miner.cli.verbosity import level_of
from miner.errors import ConfigError, MinerError, ModelNotFoundError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig
    from miner.core.llms.LLMService import LLMService

_NAMES = {"llamacpp": "llama.cpp", "ollama": "Ollama", "vllm": "vLLM", "pool": "miner.toml"}


async def chat(args: argparse.Namespace, config: MinerConfig, model: str | None) -> int:
    """Chat until the user leaves; return the exit status.

    Raises:
        MinerError: the chat cannot begin.
    """
    from miner.cli.chat.loop import converse, greet
    from miner.cli.output.terminal import Status

    conversation = _conversation(args, model)
    request = check_request(conversation)
    status = Status()
    async with contextlib.AsyncExitStack() as stack:
        keys = UnechoedKeys()
        if _edits():
            stack.enter_context(keys.entered())
        service = await stack.enter_async_context(open_target(args, config))
        talk = _new_chat(args, config, service, conversation)
        stack.enter_context(talk.input.reading_ahead())
        keys.screen = talk.screen
        log = _log(args, talk)
        try:
            status.show("looking for the model")
            try:
                try:
                    await talk.find_model(conversation.model)
                except ModelNotFoundError as error:
                    status.erase()
                    if conversation.model is not None or len(error.available) < 2:
                        raise
                    await talk.find_model(await chosen(talk, error, asks=_edits()))
                if service.runs_engines:
                    status.show("loading the model")
                    await service.load_model(conversation.model)
                    await talk.find_model(conversation.model)
            finally:
                status.erase()
            await refuse_options(args, request, service, talk.model)
            greet(talk)
            names = asyncio.ensure_future(_names(talk))
            try:
                await converse(talk)
            finally:
                names.cancel()
        finally:
            if log is not None:
                logging.getLogger().removeHandler(log)
    return 0


def _conversation(args: argparse.Namespace, model: str | None) -> Conversation:
    from miner.cli.chat import saved

    options = request_of(args)
    response_format, tools = options.pop("response_format", None), options.pop("tools", None)
    conversation = saved.load(args.load) if args.load else Conversation()
    conversation.tools_on = conversation.tools_on and not args.load
    conversation.model = model or conversation.model
    conversation.system = args.system if args.system is not None else conversation.system
    conversation.options |= options
    conversation.response_format = response_format or conversation.response_format
    if tools is not None:
        from miner.cli.chat.toolfile import checked_toolset

        conversation.tools, conversation.tools_on = checked_toolset(tools, f"--tools {args.tools[:40]!r}"), True
    return conversation


def _new_chat(args: argparse.Namespace, config: MinerConfig, service: LLMService, conversation: Conversation) -> Chat:
    edits = _edits()
    history = History(chat_directory() / "history")
    most = config.default_max_tokens if "default_max_tokens" in config.model_fields_set else MAX_TOKENS
    talk = Chat(
        service=service,
        where=_where(args, service),
        conversation=conversation,
        looks=Looks(
            markdown=edits and not args.plain,
            colour=not os.environ.get("NO_COLOR"),
            reasoning=not args.hide_thinking,
            verbose=args.timings,
        ),
        input=LineInput(),
        history=history,
        screen=Screen() if edits else None,
        max_tokens=most,
    )
    if edits:
        talk.input = _prompt(talk, history)
    return talk


def _edits() -> bool:
    """Whether both ends are a terminal on which lines can be edited."""
    return is_terminal(sys.stdin) and is_terminal(sys.stdout)


def _prompt(talk: Chat, history: History) -> UserInput:
    try:
        import rich  # noqa: F401

        from miner.cli.chat.prompt import PromptInput
    except ImportError as error:
        raise ConfigError(
            f"A chat needs the package {error.name}.",
            operator_hint='pip install "llm-service-backends[cli]"; or give the prompt at once: miner generate "...".',
        ) from error
    from miner.cli.chat.parameters import PARAMETERS
    from miner.cli.chat.saved import names

    words: dict[str, Callable[[], list[str]]] = {
        "model": lambda: talk.models, "saved": names, "parameter": lambda: list(PARAMETERS),
        "tools": lambda: ["on", "off"], "json": lambda: ["off"],
    }  # fmt: skip
    return PromptInput(history, lambda kind: words[kind]() if kind in words else [])


def _where(args: argparse.Namespace, service: LLMService) -> str:
    """Where the model runs."""
    if args.url is not None:
        return str(args.url)
    name = _NAMES.get(service.name, service.name)
    if service.runs_engines:
        return f"{name}, on this machine"
    from miner.core.llms.http_backend import HTTPBackend

    return f"{name} at {service._upstream(service.endpoint()).shown_url}" if isinstance(service, HTTPBackend) else name


async def _names(talk: Chat) -> None:
    """Learn the models' names, for completion."""
    try:
        talk.models = [info.id for info in await talk.service.list_models()]
    except MinerError:
        pass  # /model says why


def _log(args: argparse.Namespace, talk: Chat) -> logging.Handler | None:
    """Print the library's warnings between the lines of the chat, or its log where that is asked for."""
    level = level_of(args)
    if level is not None and level != "info":
        logging.basicConfig(level=level.upper(), format="%(asctime)s %(name)s %(levelname)s: %(message)s")
        return None
    if getattr(args, "log_level", None) == "info":
        logging.basicConfig(level="INFO", format="%(asctime)s %(name)s %(levelname)s: %(message)s")
        return None
    handler = ChatLog(talk)
    logging.getLogger().addHandler(handler)
    return handler
