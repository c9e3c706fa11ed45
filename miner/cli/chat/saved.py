"""Saved conversations: `/save NAME` and `/load NAME`."""

from __future__ import annotations

import json
import re
import stat
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from miner.cli.chat.conversation import Conversation
from miner.cli.chat.private_files import chat_directory, write_private
from miner.cli.chat.toolfile import checked_toolset
from miner.cli.json_value import loads
from miner.core.llms.contract.request import build_request
from miner.core.wire import ChatRequest
from miner.errors import InvalidRequestError, MinerError

_NAME = re.compile(r"[^\W_][\w.-]{0,99}")
_FORMAT = 1
_LARGEST = 256 * 2**20
"""Bytes of a file: conversations with images are large."""
_TOOLS = ("tools", "tool_choice")
_SAMPLING = ("max_tokens", "temperature", "top_p")


def path_of(name: str) -> Path:
    """The file of a saved conversation.

    Raises:
        InvalidRequestError: the name is none.
    """
    if _NAME.fullmatch(name) is None:
        raise InvalidRequestError(
            f"{name!r} cannot be a conversation's name: letters, digits, '.', '_' and '-', at most 100.", param="name"
        )
    return chat_directory() / "saved" / f"{name}.json"


def names() -> list[str]:
    """The saved conversations, by name."""
    return sorted(path.stem for path in (chat_directory() / "saved").glob("*.json"))


def save(name: str, conversation: Conversation) -> Path:
    """Save a conversation; return its file."""
    path = path_of(name)
    text = json.dumps({"format": _FORMAT, **asdict(conversation)}, indent=1, ensure_ascii=False)
    write_private(path, text + "\n")
    return path


def load(name: str, *, otherwise: str = "") -> Conversation:
    """Return a saved conversation.

    Args:
        otherwise: what else may have been meant, for the hint where there is none of that name.

    Raises:
        InvalidRequestError: there is none of that name, or its file is not one.
    """
    path = path_of(name)
    try:
        saved = loads(_text(path))
    except FileNotFoundError:
        known = ", ".join(names()) or "none"
        raise InvalidRequestError(
            f"There is no saved conversation {name!r}.", param="name",
            hint=f"Saved are: {known}. {otherwise}".rstrip(),
        ) from None  # fmt: skip
    except (OSError, ValueError) as error:
        raise InvalidRequestError(f"{path} cannot be read: {error}.", param="name") from error
    return _checked(saved, path)


def _checked(saved: Any, path: Path) -> Conversation:
    wrong = InvalidRequestError(f"{path} is no saved conversation of this version.", param="name")
    if not isinstance(saved, dict) or saved.pop("format", None) != _FORMAT:
        raise wrong
    kinds: dict[str, Any] = {
        "model": (str, type(None)), "system": (str, type(None)), "messages": list, "options": dict,
        "response_format": (dict, type(None)), "tools": list, "tools_on": bool,
    }  # fmt: skip
    if {field.name for field in fields(Conversation)} != saved.keys():
        raise wrong
    if any(not isinstance(saved[name], kind) for name, kind in kinds.items()):
        raise wrong
    if any(not isinstance(message, dict) or "role" not in message for message in saved["messages"]):
        raise wrong
    found = Conversation(**saved)
    try:
        found.tools = checked_toolset(found.tools, str(path)) if found.tools else []
        check_request(found)
    except MinerError as error:
        raise InvalidRequestError(f"{path} holds what cannot be sent: {error.message}", param="name") from None
    return found


def check_request(found: Conversation) -> ChatRequest:
    """Refuse what every further message would be refused with; return the request of one.

    Raises:
        InvalidRequestError: names the field.
    """
    arguments = {"max_tokens": 1, "temperature": 1.0, "top_p": 1.0} | replace(found, tools_on=True).request()
    own = {name: arguments.pop(name, None) for name in ("messages", "model", *_TOOLS, "unsupported", *_SAMPLING)}
    own["messages"] = [*own["messages"], {"role": "user", "content": "x"}]  # there may be none yet
    return build_request(**own, options=arguments)


def _text(path: Path) -> str:
    """The text of a saved conversation.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, or no file.
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise ValueError("it is no regular file")
    if state.st_size > _LARGEST:
        raise ValueError(f"it is larger than {_LARGEST // 2**20} MiB")
    return path.read_text(encoding="utf-8")
