"""Images of a conversation: which URLs may reach an engine.

An engine fetches any URL, from the operator's own network too, so only these forms are allowed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from miner.core.wire import ImagePart, Message
from miner.errors import InvalidRequestError

_DATA = re.compile(r"data:(image/[a-z0-9][a-z0-9.+-]{0,63});base64,", re.IGNORECASE)
_REMOTE = re.compile(r"(https?)://(?=[^\x00-\x20\x7f\\/?#@:])[^\x00-\x20\x7f\\]+", re.IGNORECASE)
"""No space, control character or backslash: URL parsers drop or change them, each in its own way."""
_ALPHABET = bytes(range(65, 91)) + bytes(range(97, 123)) + b"0123456789+/"
_SLICE = 1 << 20
_WAY_OUT = "Send the image as a data:image/...;base64,... URL."


def checked_image_url(url: str, where: str) -> tuple[str, bool]:
    """Return the URL with its scheme in lower case, and whether it is remote.

    Args:
        where: the field's path in the request.

    Raises:
        InvalidRequestError: it is neither `data:image/...;base64,` with base64 behind it nor http(s).
    """
    data = _DATA.match(url)
    if data is not None:
        start = data.end()
        if not is_base64(url, start):
            raise InvalidRequestError(f"{where}: the image is not valid base64.", param=where)
        head = url[:start]
        return (url if head.islower() else head.lower() + url[start:]), False
    remote = _REMOTE.fullmatch(url)
    if remote is not None:
        scheme = remote.group(1)
        return scheme.lower() + url[len(scheme) :], True
    shown = url if len(url) <= 40 else url[:40] + "..."
    raise InvalidRequestError(
        f"{where} must be a data:image/...;base64,... or an http(s) URL, not {shown!r}.", param=where, hint=_WAY_OUT
    )


def refuse_remote(where: str) -> InvalidRequestError:
    """Return the error for a remote image that may not be fetched."""
    return InvalidRequestError(
        f"{where}: remote images are not allowed.", param=where, hint=_WAY_OUT,
        operator_hint="MINER_ALLOW_REMOTE_IMAGES allows them.",
    )  # fmt: skip


def check_images(messages: Iterable[Message], *, remote: bool) -> None:
    """Validate every image of a conversation, and normalize its URL.

    Args:
        remote: whether the engine may fetch http(s) URLs.

    Raises:
        InvalidRequestError: names the image's field.
    """
    for place, message in enumerate(messages):
        if not isinstance(message.content, list):
            continue
        for number, part in enumerate(message.content):
            if not isinstance(part, ImagePart):
                continue
            where = f"messages[{place}].content[{number}].image_url.url"
            part.image_url.url, fetched = checked_image_url(part.image_url.url, where)
            if fetched and not remote:
                raise refuse_remote(where)


def base64_of(url: str) -> str | None:
    """Return the base64 text of a validated `data:` URL; None for a remote one."""
    return url.partition(",")[2] if url.startswith("data:") else None


def is_base64(text: str, start: int = 0) -> bool:
    """Return whether the text from `start` is padded base64 (RFC 4648) and not empty.

    Much cheaper than decoding: an image may have 30 MB, and the event loop is blocked.
    """
    length = len(text) - start
    if length <= 0 or length % 4 or not text.isascii():
        return False
    end = len(text) - (2 if text.endswith("==") else 1 if text.endswith("=") else 0)
    return all(
        not text[at : min(at + _SLICE, end)].encode("ascii").translate(None, _ALPHABET)
        for at in range(start, end, _SLICE)
    )
