"""Signatures of thinking blocks.

Anthropic's clients send the blocks of earlier turns back as they were, and drop those without a signature. Ours prove
nothing: the reasoning is the client's own to change. Where a client does not want to read it (`display: omitted`), the
signature is where it travels, as at Anthropic.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib

_CARRIES = b"miner/1:"
_SIGNS = b"miner/0:"
_MOST = 4 * 1024 * 1024
"""Bytes of reasoning that a signature may carry: a small one may unpack to a huge text."""


def signature_of(thinking: str) -> str:
    """The signature of a block that shows its text."""
    return base64.b64encode(_SIGNS + hashlib.sha256(thinking.encode(errors="replace")).digest()).decode()


def carrying_signature(thinking: str) -> str:
    """The signature of a block that omits its text, which `carried_thinking` finds in it again."""
    return base64.b64encode(_CARRIES + zlib.compress(thinking.encode(errors="replace"))).decode()


def carried_thinking(signature: str) -> str:
    """The reasoning that a signature carries; "" for every other one, Anthropic's own among them."""
    try:
        raw = base64.b64decode(signature, validate=True)
        if not raw.startswith(_CARRIES):
            return ""
        return zlib.decompressobj().decompress(raw[len(_CARRIES) :], _MOST).decode()
    except (binascii.Error, zlib.error, ValueError):
        return ""
