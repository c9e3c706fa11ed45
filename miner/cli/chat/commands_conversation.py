"""Commands about the conversation: /system, /save, /load, /clear, /retry, /image, /exit."""

from __future__ import annotations

from miner.cli.chat import saved
from miner.cli.chat.interrupt import Interrupted, in_background, interruptible
from miner.cli.chat.respond import respond, send
from miner.cli.chat.session import Chat
from miner.cli.chat.user_input import Cancelled, without_quotes
from miner.cli.chat.words import first_word, unquoted
from miner.cli.images import image_url
from miner.core.counted import counted
from miner.errors import InvalidRequestError, MinerError, UnsupportedFeatureError


async def system(chat: Chat, text: str) -> None:
    """Show, set or remove the system message."""
    if not text:
        chat.say(chat.conversation.system or "There is no system message. /system TEXT sets one.")
    elif text.lower() in ("off", "none", "default") or not (unquoted(text).strip() and without_quotes(text).strip()):
        chat.conversation.system = None
        chat.say("The system message is removed.")
    else:
        chat.conversation.system = without_quotes(text)
        chat.say("The system message is set; it counts from the next message on.")


async def clear(chat: Chat, text: str) -> None:
    """Forget the messages."""
    count = len(chat.conversation.messages)
    chat.conversation.messages.clear()
    chat.usage.forget()
    kept = " The system message stays." if chat.conversation.system else ""
    chat.say(f"{counted(count, 'message')} forgotten.{kept}")


async def save(chat: Chat, name: str) -> None:
    """Save the conversation; a name that is taken only after a yes."""
    name = unquoted(name)
    if not name:
        names = saved.names()
        chat.say(f"Saved: {', '.join(names)}. /save NAME saves this one." if names else "/save NAME saves this one.")
        return
    path = saved.path_of(name)
    if path.exists():
        try:
            answer = await chat.input.ask(f"{name} exists. Overwrite it? [y/N] ")
        except (Cancelled, EOFError):
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            chat.say("Nothing is saved.")
            return
    chat.say(f"Saved {counted(len(chat.conversation.messages), 'message')}: {saved.save(name, chat.conversation)}")


async def load(chat: Chat, name: str) -> None:
    """Go on with a saved conversation."""
    name = unquoted(name)
    if not name:
        names = saved.names()
        chat.say(f"Saved: {', '.join(names)}." if names else "Nothing is saved. /save NAME saves this conversation.")
        return
    found = saved.load(name, otherwise="`/model NAME` changes the model.")
    unsaved = [each for each in chat.conversation.messages if each["role"] == "assistant"]
    if unsaved:
        try:
            answer = await chat.input.ask("This conversation is replaced. Go on? [y/N] ")
        except (Cancelled, EOFError):
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            chat.say("Nothing is loaded.")
            return
    model = found.model
    before, chat.conversation = chat.conversation.model, found
    chat.usage.forget()
    chat.say(f"Loaded {name}: {counted(len(found.messages), 'message')}.")
    if found.tools:
        # A file could bring commands along; they run only after a yes, but tools are not on unasked.
        found.tools_on = False
        chat.say("Its tools are off: /tools on turns them on.")
    try:
        await interruptible(chat.find_model(model))
        chat.say(f"The model is {chat.model_name}.")
    except (MinerError, Interrupted) as error:
        found.model = before
        if isinstance(error, MinerError):
            chat.show_error(error)
        chat.say(f"The model stays {chat.model_name}.")
    last = next((each for each in reversed(found.messages) if each["role"] == "assistant"), None)
    if last is not None:
        chat.note(f"Last response: {str(last.get('content', ''))[:200]}")


async def retry(chat: Chat, text: str) -> None:
    """Send the last message again."""
    if not chat.conversation.back_to_last_user():
        raise InvalidRequestError("There is no message to send again.", param="retry")
    await respond(chat)


async def image(chat: Chat, text: str) -> None:
    """Send an image with a text."""
    file, rest = first_word(text)
    if not file:
        raise InvalidRequestError("No file is named.", param="image", hint="/image FILE [TEXT]")
    if chat.can("images") is False:
        raise UnsupportedFeatureError(
            f"{chat.model_name} does not see images.", param="images",
            hint="/model NAME changes to one that does; on llama.cpp it needs its projector (LLAMACPP_MMPROJ).",
        )  # fmt: skip
    try:
        part = {"type": "image_url", "image_url": {"url": await in_background(lambda: image_url(file))}}
    except MinerError as error:
        error.message = error.message.removeprefix("--image ")
        raise
    question = without_quotes(rest) if rest else "Describe this image."
    await send(chat, {"role": "user", "content": [{"type": "text", "text": question}, part]})


async def leave(chat: Chat, text: str) -> None:
    """End the chat."""
    chat.leaving = True
