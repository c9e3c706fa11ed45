"""Images as arguments: a file, or a URL that is fetched here."""

from __future__ import annotations

import base64
from typing import IO

from miner.cli.parser import UsageError
from miner.cli.standard_input import read_bytes

MAX_BYTES = 32 * 2**20
"""Largest image: engines refuse more long before."""
_SECONDS = 30.0
_KINDS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"), (b"BM", "image/bmp"),
)  # fmt: skip


def image_url(argument: str) -> str:
    """The `data:` URL of an image: of a file, an http(s) URL, or such a URL as it is.

    Raises:
        UsageError: it cannot be read, or is no image.
        InvalidRequestError: it is no `data:` URL of an image.
    """
    if argument.startswith("data:"):
        from miner.core.llms.contract.images import checked_image_url

        return checked_image_url(argument, "--image")[0]
    if argument.startswith(("http://", "https://")):
        content = _fetch(argument)
    else:
        content = read_bytes(argument, "--image")
        if len(content) > MAX_BYTES:
            raise _too_large(argument)
    return f"data:{_kind(argument, content)};base64,{base64.b64encode(content).decode()}"


def _kind(argument: str, content: bytes) -> str:
    for start, kind in _KINDS:
        if content.startswith(start):
            return kind
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    found = "is empty" if not content else f"begins with {content[:8]!r}"
    raise UsageError(
        f"--image {argument!r} is not an image: it {found}.", operator_hint="PNG, JPEG, WebP, GIF and BMP are known."
    )


def _fetch(url: str) -> bytes:
    from http.client import HTTPException
    from urllib.request import Request, urlopen

    from miner import __version__

    shown = url.partition("?")[0]  # what follows may be a signature
    try:
        request = Request(url, headers={"User-Agent": f"miner/{__version__}", "Accept": "image/*"})
        with urlopen(request, timeout=_SECONDS) as response:
            return _read(response, url)
    except (OSError, ValueError, HTTPException) as error:  # URLError and HTTPError are OSErrors
        raise UsageError(f"--image {shown}: cannot be fetched: {getattr(error, 'reason', error)}.") from None


def _read(response: IO[bytes], url: str) -> bytes:
    content = response.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise _too_large(url)
    return content


def _too_large(argument: str) -> UsageError:
    return UsageError(f"--image {argument!r} is larger than {MAX_BYTES // 2**20} MiB.")
