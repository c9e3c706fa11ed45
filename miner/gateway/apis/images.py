"""Images in request bodies: the library's checks, with the client's field in errors."""

from __future__ import annotations

from typing import Any

from miner.core.llms.contract.images import checked_image_url


def image_part(url: str, where: str, remote: list[str]) -> dict[str, Any]:
    """An image as the service takes it.

    Args:
        where: the field, as this dialect's client wrote it.
        remote: gets `where` if the image would have to be fetched; it goes into `Call.remote_images`.

    Raises:
        InvalidRequestError: names the field.
    """
    url, fetched = checked_image_url(url, where)
    if fetched:
        remote.append(where)
    return {"type": "image_url", "image_url": {"url": url}}


def check_parts(message: dict[str, Any], where: str, remote: list[str]) -> None:
    """Check the images of a message in OpenAI's form; what has another form is left to the service to refuse."""
    content = message.get("content")
    for number, part in enumerate(content if isinstance(content, list) else ()):
        image = part.get("image_url") if isinstance(part, dict) else None
        if isinstance(image, dict) and isinstance(image.get("url"), str):
            checked = image_part(image["url"], f"{where}.content[{number}].image_url.url", remote)
            image["url"] = checked["image_url"]["url"]
