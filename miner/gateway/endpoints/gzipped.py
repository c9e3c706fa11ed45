"""A body that is compressed for clients that accept gzip. Of `/metrics` alone: responses of models never are."""

from __future__ import annotations

import zlib

_LEVEL = 1
"""The rest of a scrape takes longer than this level; higher ones take longer than they save."""
_SMALLEST = 1024
"""Bytes of a body that is worth it: a smaller one fits into a packet anyway."""
_GZIP = 16 + zlib.MAX_WBITS


def gzipped(body: bytes, accept_encoding: str | None) -> bytes | None:
    """The body in gzip's format; None: the client does not accept that, or the body is small. Takes a while, without
    Python's lock: to be called in a thread.
    """
    if len(body) <= _SMALLEST or not _accepts_gzip(accept_encoding or ""):
        return None
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    return compressor.compress(body) + compressor.flush()


def _accepts_gzip(header: str) -> bool:
    for each in header.lower().split(","):
        coding, *parameters = (part.strip() for part in each.split(";"))
        if coding in ("gzip", "x-gzip"):
            return not any(parameter.replace(" ", "").rstrip("0.") == "q=" for parameter in parameters)
    return False
