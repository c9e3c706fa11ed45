"""The choice of a model where none is named and there is no default."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from miner.cli.chat.models import SHOWN, chats
from miner.cli.chat.user_input import Cancelled
from miner.cli.output.visible import one_line
from miner.errors import ModelNotFoundError, UnsupportedFeatureError

if TYPE_CHECKING:
    from miner.cli.chat.session import Chat
    from miner.core.wire import ModelInfo


async def chosen(talk: Chat, error: ModelNotFoundError, *, asks: bool) -> str:
    """A model where none was named and there is no default: the only one that chats, else the one that the user
    chooses by number or name.

    Args:
        error: lists the models.
        asks: whether there is a user at a terminal.

    Raises:
        MinerError: none chats, or the user chooses none.
    """
    models = [model for model in await talk.service.list_models() if chats(model)]
    if not models:
        raise UnsupportedFeatureError(
            f"None of the models here generates text: {', '.join(error.available[:SHOWN])}.", param="model",
            operator_hint="Get one with: miner pull hf:owner/repo",
        )  # fmt: skip
    if len(models) == 1:
        talk.note(f"{models[0].id} is the only model here that chats.")
        return models[0].id
    if not asks:
        raise error
    return await _asked(talk, error, models)


async def _asked(talk: Chat, error: ModelNotFoundError, models: Sequence[ModelInfo]) -> str:
    talk.say("\n".join(f"{number:3}  {model.id}" for number, model in enumerate(models, 1)))
    names = {name: model.id for model in models for name in (*model.aliases, model.id)}
    while True:
        try:
            answer = (await talk.input.ask("Which model? (-m NAME or DEFAULT_MODEL chooses one at once) ")).strip()
        except (Cancelled, EOFError):
            answer = ""
        if not answer:
            raise error
        if answer.isdecimal() and 0 < int(answer) <= len(models):
            return models[int(answer) - 1].id
        if answer in names:
            return answer
        wrong = one_line(answer, 40)
        talk.say(f"No model here is named {wrong!r}. A number from 1 to {len(models)}, or a name; Ctrl-C leaves.")
