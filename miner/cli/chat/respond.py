"""A message of the user, and all the responses to it: a model may call tools in between."""

from __future__ import annotations

from typing import Any

from miner.cli.chat.interrupt import Interrupted
from miner.cli.chat.session import Chat
from miner.cli.chat.tool_calls import answer_calls


async def send(chat: Chat, message: dict[str, Any]) -> None:
    """Send a message of the user, and show the response."""
    chat.conversation.ask(message)
    await respond(chat)


async def respond(chat: Chat) -> None:
    """Have the model respond to the conversation, and to the results of the tools that it calls."""
    response = await chat.response()
    while response is not None and response.tool_calls:
        try:
            await answer_calls(chat, response.tool_calls)
        except (EOFError, Interrupted):
            chat.conversation.back_to_last_user()
            chat.note("The tool call is dropped. /retry sends your message again.")
            return
        response = await chat.response()
