"""Speech: requests and responses that a backend passes between a client and its server as they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from miner.errors import UnsupportedFeatureError

AUDIO_PATHS = ("/audio/transcriptions", "/audio/translations", "/audio/speech")
"""OpenAI's routes, after their `/v1`."""


class AudioReply(NamedTuple):
    """A response whose body is read as it arrives."""

    content_type: str
    read_some: Callable[[], Awaitable[bytes]]
    """Return what was received, at least one byte; b"" at the end."""


def no_audio(where: str) -> UnsupportedFeatureError:
    """The error of a backend or a server without these routes."""
    return UnsupportedFeatureError(
        f"{where} does not serve audio.", param="model",
        hint="A vLLM server with a speech model (such as Whisper) does: LLM_BACKEND=vllm.",
    )  # fmt: skip
