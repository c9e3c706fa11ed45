"""Speech: requests and responses that a backend passes between a client and its server as they are."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec

from miner.errors import UnsupportedFeatureError

AUDIO_PATHS = ("/audio/transcriptions", "/audio/translations", "/audio/speech")
"""OpenAI's routes, after their `/v1`."""


class AudioReply(NamedTuple):
    """A response whose body is read as it arrives."""

    content_type: str
    read_some: Callable[[], Awaitable[bytes]]
    """Return what was received, at least one byte; b"" at the end."""


_BOUNDARY = re.compile(r'boundary="?([^";]+)"?')
_MODEL_PART = re.compile(rb'[;\s]name="?model"?\s*(?:;|\r\n|$)', re.IGNORECASE)


def with_model(body: bytes, content_type: str, model: str) -> bytes:
    """The same request, JSON or a form, for the model of this name."""
    boundary = _BOUNDARY.search(content_type)
    if boundary is None:
        return msgspec.json.encode({**msgspec.json.decode(body), "model": model})
    separator = b"--" + boundary[1].encode()
    parts = body.split(separator)
    for place, part in enumerate(parts):
        head, blank, _ = part.partition(b"\r\n\r\n")
        if blank and _MODEL_PART.search(head):
            parts[place] = head + blank + model.encode() + b"\r\n"
            return separator.join(parts)
    added = b'\r\nContent-Disposition: form-data; name="model"\r\n\r\n' + model.encode() + b"\r\n"
    return separator.join([parts[0], added, *parts[1:]])


def no_audio(where: str) -> UnsupportedFeatureError:
    """The error of a backend or a server without these routes."""
    return UnsupportedFeatureError(
        f"{where} does not serve audio.", param="model",
        hint="A vLLM server with a speech model (such as Whisper) does: LLM_BACKEND=vllm.",
    )  # fmt: skip
